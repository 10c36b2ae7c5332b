"""What each mode trains, by REACT's own counts, and where decay falls."""

import pytest
import torch

from reactvl.clip_imports import open_clip
from reactvl.manifest import ReactvlError
from reactvl.models.gates import insert_gates
from reactvl.train.tuning import choose, trained_count


def net(gated: bool) -> torch.nn.Module:
    with torch.device("meta"):
        model = open_clip.CLIP(**open_clip.get_model_config("ViT-B-32"))
        if gated:
            insert_gates(model.visual, 6)
    return model


def chosen(model, tune, freeze=()):
    return choose(model, tune, lr=1e-3, alpha_lr=1e-2, weight_decay=0.1, freeze=list(freeze))


@pytest.mark.parametrize(
    ("tune", "gated", "count"),
    [("gated-image", True, 42_527_245), ("locked-text", False, 87_849_217), ("full", False, 151_277_313)],
)
def test_trained_parameters_are_the_released_counts(tune, gated, count):
    model = net(gated)
    groups = chosen(model, tune)
    assert trained_count(model) == count
    named = [name for group in groups for name in group.names]
    assert sorted(named) == sorted(name for name, p in model.named_parameters() if p.requires_grad)


def test_decay_falls_on_matrices_alone_and_alphas_have_their_own_rate():
    model = net(gated=True)
    shapes = dict(model.named_parameters())
    for group in chosen(model, "gated-image"):
        for name in group.names:
            alpha = name.endswith(("alpha_attn", "alpha_dense"))
            assert group.lr == (1e-2 if alpha else 1e-3)
            assert (group.weight_decay > 0) == (shapes[name].ndim >= 2)


def test_freeze_takes_regular_expressions_and_refuses_idle_ones():
    model = net(gated=False)
    chosen(model, "locked-text", [r"visual\.transformer\.resblocks\.[0-5]\..*"])
    assert not model.visual.transformer.resblocks[5].mlp.c_fc.weight.requires_grad
    assert model.visual.transformer.resblocks[6].mlp.c_fc.weight.requires_grad
    with pytest.raises(ReactvlError, match="matches no parameter"):
        chosen(model, "locked-text", [r"visual\.nothing"])
    with pytest.raises(ReactvlError, match="not a regular expression"):
        chosen(model, "locked-text", ["("])
    with pytest.raises(ReactvlError, match="nothing is left"):
        chosen(model, "locked-text", [".*"])
