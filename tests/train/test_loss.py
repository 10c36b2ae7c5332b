"""CLIP's and SigLIP's losses against open_clip's own, values and gradients, in float64; masks and banks against a restatement."""

import numpy as np
import torch
import torch.nn.functional as F

from reactvl.clip_imports import open_clip
from reactvl.train.loss import clip_loss, siglip_loss

ROWS, DIM = 23, 12


def vectors(seed: int, rows: int = ROWS) -> torch.Tensor:
    drawn = torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(drawn, dim=-1)


def inputs() -> list[torch.Tensor]:
    given = [vectors(0), vectors(1), torch.tensor(37.0, dtype=torch.float64), torch.tensor(-5.0, dtype=torch.float64)]
    return [one.requires_grad_() for one in given]


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor, leaves: list[torch.Tensor]) -> None:
    """Equal values and gradients, float64."""
    assert ours.dtype == torch.float64
    assert torch.allclose(ours, theirs, rtol=1e-12)
    found, wanted = (torch.autograd.grad(each, leaves, retain_graph=True) for each in (ours, theirs))
    for mine, other in zip(found, wanted, strict=True):
        assert torch.allclose(mine, other, rtol=1e-9, atol=1e-12)


def test_clip_loss_equals_open_clips():
    images, texts, scale, _ = inputs()
    loss, _ = clip_loss(images, texts, scale)
    assert_equal(loss, open_clip.loss.ClipLoss()(images, texts, scale), [images, texts, scale])


def test_siglip_loss_equals_open_clips():
    images, texts, scale, bias = inputs()
    loss, _ = siglip_loss(images, texts, scale, bias)
    assert_equal(loss, open_clip.loss.SigLipLoss()(images, texts, scale, bias), [images, texts, scale, bias])


def test_half_precision_vectors_are_multiplied_in_float32():
    images, texts = vectors(0).bfloat16(), vectors(1).bfloat16()
    loss, _ = clip_loss(images, texts, torch.tensor(20.0))
    assert loss.dtype == torch.float32
    assert torch.allclose(loss, clip_loss(images.float(), texts.float(), torch.tensor(20.0))[0], rtol=1e-6)


def test_accuracy_is_the_share_of_own_texts_that_score_highest():
    images, texts = vectors(2), vectors(3)
    _, accuracy = clip_loss(images, texts, torch.tensor(10.0))
    logits = images.numpy() @ texts.numpy().T
    assert float(accuracy) == np.float32((logits.argmax(1) == np.arange(ROWS)).mean())
