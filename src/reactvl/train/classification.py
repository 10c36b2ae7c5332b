"""Steps of an image tower with a linear head on labelled pictures: the engine's steps, another loss.

The head stands in the network as `classification_head` and begins as the zero-shot head, so that step 0 scores what
zero-shot classification scores: logits are 100 x cosine, plus a bias that begins at 0.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reactvl.models.classifier import LOGIT_SCALE
from reactvl.train.frozen import freeze_statistics, split
from reactvl.train.step import Batch, Stepper
from reactvl.train.tuning import Group

HEAD = "classification_head"


class ClassificationStepper(Stepper):
    """A Stepper whose batches carry labels in `texts`: int64 (n,), or float (n, C) where a picture may have several.

    One process trains; a picture that cannot be read is not in the batch.
    """

    @classmethod
    def of(
        cls,
        net: nn.Module,
        head: np.ndarray,
        *,
        lr: float,
        l2: float,
        precision: str,
        device: torch.device,
        seed: int = 0,
    ) -> "ClassificationStepper":
        """Train the whole image tower of `net`, in place, and a head (C, dim) that is put into it.

        `l2` is AdamW's weight decay, on matrices alone.
        """
        layer = nn.Linear(head.shape[1], head.shape[0])
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(np.asarray(head, np.float32)))
            layer.bias.zero_()
            net.logit_scale.fill_(math.log(LOGIT_SCALE))
        setattr(net, HEAD, layer)
        net.to(device).requires_grad_(False)
        net.visual.requires_grad_(True)
        layer.requires_grad_(True)
        freeze_statistics(net)
        named = {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}
        groups = [
            Group([name for name, parameter in named.items() if parameter.ndim >= 2], lr, l2),
            Group([name for name, parameter in named.items() if parameter.ndim < 2], lr, 0.0),
        ]
        at = split(net.visual, precision=precision)
        return cls(net, at, None, groups, precision=precision, device=device, seed=seed)

    def compared(self, batch: Batch, kept: Tensor | None) -> Tensor:
        return batch.texts.to(self.device, non_blocking=True)

    def columns(self, batch: Batch) -> tuple[int, Tensor | None]:
        return 0, None

    def loss(
        self, images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor | None, first: int
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the labels, a binary one per class where there may be several, and the share that is right."""
        layer = getattr(self.net, HEAD)
        return classification_loss(F.linear(scale * images, layer.weight, layer.bias), texts)


def classification_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of logits (n, C), and the share of labels that they get right; `labels` int64 (n,) or float (n, C)."""
    if labels.dtype == torch.int64:
        return F.cross_entropy(logits, labels), (logits.detach().argmax(dim=1) == labels).float().mean()
    right = ((logits.detach() > 0) == (labels > 0.5)).float().mean()
    return F.binary_cross_entropy_with_logits(logits, labels), right


def without_head(net: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Take the head out of the network: its weights (C, dim) and bias (C,), float32."""
    layer = getattr(net, HEAD)
    delattr(net, HEAD)
    return layer.weight.detach().cpu().numpy(), layer.bias.detach().cpu().numpy()
