"""CLIP's contrastive loss and SigLIP's over a global batch, of which a process holds some rows (images) and all columns (texts).

A process's loss is its share: summed over the processes, values and gradients are those of one process with the whole batch.
Image vectors are never gathered. A row's softmax over the texts is local; a column's over the images needs only the other
processes' logsumexp of that column, one float, and its gradient is local again.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from reactvl.train.distributed import World


def clip_loss(
    images: Tensor,
    texts: Tensor,
    logit_scale: Tensor,
    *,
    first: int = 0,
    world: World | None = None,
) -> tuple[Tensor, Tensor]:
    """Symmetric cross-entropy of L2-normalised images (b, dim), this process's rows, and texts (B, dim), all columns.

    Row i belongs to column `first + i`. Returns the process's share of the loss and the share of its images whose own text
    scores highest in the batch. Products in float32, or float64 where the vectors are. Follows open_clip's ClipLoss; the
    whole loss is the mean over rows and columns, halved.
    """
    world = world or World.alone()
    logits = logit_scale * at_least_float(images) @ at_least_float(texts).T  # (b, B)
    own = torch.arange(first, first + len(images), device=logits.device)
    positive = logits.gather(1, own[:, None]).squeeze(1)  # (b,)
    rows = logits.logsumexp(dim=1)
    columns = world.logsumexp(logits.logsumexp(dim=0))  # (B,)
    total = rows.sum() - 2 * positive.sum() + columns.sum() / world.size
    return total / (2 * len(texts)), hits(logits, own)


def siglip_loss(
    images: Tensor,
    texts: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor,
    *,
    first: int = 0,
) -> tuple[Tensor, Tensor]:
    """Pairwise sigmoid loss (arXiv 2303.15343): every image and text of the batch, told apart as a pair or none.

    Shapes and results as in `clip_loss`. No process needs anything of another's. Follows
    open_clip's SigLipLoss: the sum over all pairs by the number of rows.
    """
    logits = logit_scale * at_least_float(images) @ at_least_float(texts).T + logit_bias  # (b, B)
    own = torch.arange(first, first + len(images), device=logits.device)
    signs = torch.full_like(logits, -1).scatter_(1, own[:, None], 1)
    return -F.logsigmoid(signs * logits).sum() / len(texts), hits(logits, own)


def at_least_float(vectors: Tensor) -> Tensor:
    return vectors if vectors.dtype == torch.float64 else vectors.float()


def hits(logits: Tensor, own: Tensor) -> Tensor:
    if not len(own):
        return logits.new_zeros(())
    return (logits.detach().argmax(dim=1) == own).float().mean()
