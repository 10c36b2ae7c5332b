"""CLIP's and SigLIP's losses against open_clip's own, values and gradients, in float64; masks and banks against a restatement."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reactvl.clip_imports import open_clip
from reactvl.train.loss import clip_loss, false_negatives, siglip_loss

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


def restated(logits: np.ndarray, mask: np.ndarray, bank: np.ndarray | None, bank_mask: np.ndarray | None) -> float:
    """Mean over rows and columns of -log softmax at the own place, over what is not masked, with numpy."""
    rows, columns = [], []
    for place in range(len(logits)):
        row = [logits[place, j] for j in range(len(logits)) if not mask[place, j]]
        if bank is not None:
            row += [bank[place, j] for j in range(bank.shape[1]) if not bank_mask[place, j]]
        column = [logits[i, place] for i in range(len(logits)) if not mask[i, place]]
        rows.append(np.log(np.exp(row).sum()) - logits[place, place])
        columns.append(np.log(np.exp(column).sum()) - logits[place, place])
    return (np.mean(rows) + np.mean(columns)) / 2


def test_masked_false_negatives_and_a_bank_equal_a_restatement():
    images, texts, bank = vectors(4), vectors(5), vectors(6, 40)
    texts[3] = texts[9]
    bank[7] = texts[2]
    mask, bank_mask = false_negatives(texts, texts, 0.999, first=0), false_negatives(texts, bank, 0.999)
    assert mask.nonzero().tolist() == [[3, 9], [9, 3]]
    assert bank_mask.nonzero().tolist() == [[2, 7]]
    scale = 9.0
    wanted = restated(
        scale * (images @ texts.T).numpy(), mask.numpy(), scale * (images @ bank.T).numpy(), bank_mask.numpy()
    )
    loss, _ = clip_loss(images, texts, torch.tensor(scale), mask=mask, bank=bank, bank_mask=bank_mask)
    assert float(loss) == pytest.approx(wanted, rel=1e-12)
    alone, _ = clip_loss(images, texts, torch.tensor(scale), mask=mask)
    assert float(alone) == pytest.approx(
        restated(scale * (images @ texts.T).numpy(), mask.numpy(), None, None), rel=1e-12
    )
    assert loss > alone  # more negatives


def test_a_masked_pair_counts_for_nothing_in_siglips_loss():
    images, texts = vectors(4), vectors(5)
    scale, bias = torch.tensor(9.0, dtype=torch.float64), torch.tensor(-2.0, dtype=torch.float64)
    mask = torch.zeros(ROWS, ROWS, dtype=torch.bool)
    mask[3, 9] = True
    whole, less = (siglip_loss(images, texts, scale, bias, mask=one)[0] for one in (None, mask))
    pair = -F.logsigmoid(-(scale * images[3] @ texts[9] + bias)) / ROWS
    assert torch.allclose(whole - less, pair, rtol=1e-9)
