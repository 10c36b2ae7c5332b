"""CLIP's loss against open_clip's own, and against float64."""

import numpy as np
import torch
import torch.nn.functional as F

from reactvl.clip_imports import open_clip
from reactvl.train.loss import clip_loss


def vectors(seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(23, 12, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_loss_equals_open_clips():
    images, texts, scale = vectors(0).requires_grad_(), vectors(1), torch.tensor(37.0)
    loss, _ = clip_loss(images, texts, scale)
    theirs = open_clip.loss.ClipLoss()(images, texts, scale)
    assert torch.allclose(loss, theirs, atol=1e-6)
    ours, wanted = (torch.autograd.grad(each, images, retain_graph=True)[0] for each in (loss, theirs))
    assert torch.allclose(ours, wanted, atol=1e-6)


def test_loss_equals_float64():
    images, texts = vectors(2), vectors(3)
    loss, accuracy = clip_loss(images, texts, torch.tensor(10.0))
    logits = 10.0 * images.double().numpy() @ texts.double().numpy().T
    lse = lambda axis: np.log(np.exp(logits).sum(axis=axis)) - np.diag(logits)  # noqa: E731
    assert abs(float(loss) - (lse(0).mean() + lse(1).mean()) / 2) < 1e-5
    assert float(accuracy) == np.float32((logits.argmax(1) == np.arange(23)).mean())
