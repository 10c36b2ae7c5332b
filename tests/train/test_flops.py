"""The formula for a step's arithmetic against torch's own counter, on the tower as it is split."""

import pytest
import torch
from test_frozen import KINDS, net
from torch.utils.flop_counter import FlopCounterMode

from reactvl.train.flops import image_flops, peak, plainly, step_flops
from reactvl.train.frozen import freeze_statistics, split
from reactvl.train.tuning import choose

FORMULA = [kind for kind in KINDS if kind not in ("attentional pooling", "normed queries and keys")]


def counted(parts, pixels: torch.Tensor, lower: bool = True) -> int:
    features = parts.lower(pixels)
    with plainly(), FlopCounterMode(display=False) as counter:
        out = parts.upper(parts.lower(pixels) if lower else features)
        out.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", FORMULA)
def test_the_formula_gives_what_is_counted(kind):
    made, tune, freeze = KINDS[kind]
    model = net(**made)
    choose(model, tune, lr=1e-3, alpha_lr=1e-2, weight_decay=0.1, freeze=freeze)
    freeze_statistics(model)
    parts = split(model.visual, prepack=False)
    assert image_flops(model.visual) * 2 == pytest.approx(counted(parts, torch.randn(2, 3, 64, 64)), rel=1e-3)


@pytest.mark.parametrize("kind", ["gated", "locked-text, stem"])
def test_kept_features_leave_the_lower_part_out(kind):
    made, tune, freeze = KINDS[kind]
    model = net(**made)
    choose(model, tune, lr=1e-3, alpha_lr=1e-2, weight_decay=0.1, freeze=freeze)
    freeze_statistics(model)
    parts = split(model.visual, prepack=False)
    wanted = counted(parts, torch.randn(2, 3, 64, 64), lower=False)
    assert image_flops(model.visual, parts.at) * 2 == pytest.approx(wanted, rel=1e-3)
    assert image_flops(model.visual, parts.at) < image_flops(model.visual)


def test_published_sizes():
    """ViT-B/32's forward pass is 4.4 GMAC an image (open_clip's own profile); frozen, but for its last block's tokens."""
    from reactvl.clip_imports import open_clip

    with torch.device("meta"):
        tower = open_clip.CLIP(**open_clip.get_model_config("ViT-B-32")).visual
    tower.requires_grad_(False)
    assert image_flops(tower) == pytest.approx(2 * 4.4e9, rel=0.08)
    tower.requires_grad_(True)
    assert image_flops(tower) == pytest.approx(3 * 2 * 4.4e9, rel=0.08)


def test_other_towers_are_counted_while_one_image_runs():
    model = net(timm_model_name="resnet10t", timm_pool="avg", timm_proj="linear")
    choose(model, "locked-text", lr=1e-3, alpha_lr=1e-2, weight_decay=0.1, freeze=[])
    frozen = net(timm_model_name="resnet10t", timm_pool="avg", timm_proj="linear")
    frozen.requires_grad_(False)
    assert 2.8 < image_flops(model.visual) / image_flops(frozen.visual) < 3
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_step_holds_its_texts_where_they_run():
    model = net(gates=2)
    choose(model, "gated-image", lr=1e-3, alpha_lr=1e-2, weight_decay=0.1, freeze=[])
    without = step_flops(model, 8)
    assert without == pytest.approx(8 * image_flops(model.visual) + 6 * 8 * 8 * 16)
    locked = step_flops(model, 8, text_length=8) - without
    choose(model, "full", lr=1e-3, alpha_lr=1e-2, weight_decay=0.1, freeze=[r"visual\..*"])
    trained = step_flops(model, 8, text_length=8) - step_flops(model, 8)
    assert locked > 0 and trained == pytest.approx(3 * locked)


def test_the_machines_rate_is_measured_once():
    rate = peak("cpu", "fp32")
    assert rate > 1e9 and peak(torch.device("cpu"), "fp32") == rate
