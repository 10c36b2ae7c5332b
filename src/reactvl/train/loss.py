"""CLIP's contrastive loss over a batch of matching pairs."""

import torch
import torch.nn.functional as F
from torch import Tensor


def clip_loss(images: Tensor, texts: Tensor, logit_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric cross-entropy of L2-normalised image and text vectors (B, dim), row i of one belonging to row i of the other.

    Returns the loss and the share of images whose own text scores highest. Products in float32. Follows open_clip's ClipLoss.
    """
    logits = logit_scale * images.float() @ texts.float().T  # (B, B)
    labels = torch.arange(len(logits), device=logits.device)
    loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    return loss, (logits.detach().argmax(dim=1) == labels).float().mean()
