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


def chosen(model, tune, freeze=(), **more):
    return choose(model, tune, lr=1e-3, alpha_lr=1e-2, weight_decay=0.1, freeze=list(freeze), **more)


def trained(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("tune", "gated", "count"),
    [
        ("gated-image", True, 42_527_245),
        ("locked-text", False, 87_849_217),
        ("locked-image", False, 151_277_313 - 87_849_216),
        ("full", False, 151_277_313),
    ],
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


@pytest.mark.parametrize(
    ("tune", "gated", "opened", "beside"),
    [
        ("gated-image", True, "visual.transformer.resblocks", {"visual.ln_post.weight", "visual.proj"}),
        ("locked-image", False, "visual.transformer.resblocks", {"visual.ln_post.weight", "visual.proj"}),
        ("locked-text", False, "transformer.resblocks", {"ln_final.weight", "text_projection"}),
    ],
)
def test_the_last_blocks_of_the_locked_tower_can_be_unlocked(tune, gated, opened, beside):
    model = net(gated)
    chosen(model, tune)
    before = trained(model)
    chosen(model, tune, unlock_last=2)
    more = trained(model) - before
    assert before <= trained(model) and beside <= more
    blocks = {name for name in more if name.startswith(f"{opened}.")}
    assert {int(name.split(".")[opened.count(".") + 1]) for name in blocks} == {10, 11}
    whole = {name for name, _ in model.named_parameters() if name.startswith((f"{opened}.10.", f"{opened}.11."))}
    assert whole - before == blocks


def test_unlocking_reaches_the_towers_of_timm_and_of_custom_text():
    config = {
        "embed_dim": 32,
        "vision_cfg": {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "map", "timm_proj": "none"},
        "text_cfg": {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 3},
    }
    with torch.device("meta"):
        model = open_clip.CustomTextCLIP(**config, init_logit_bias=-10.0)
    chosen(model, "locked-text", unlock_last=1)
    text = {name for name in trained(model) if not name.startswith(("visual.", "logit"))}
    assert {"text.ln_final.weight", "text.text_projection"} <= text and "logit_bias" in trained(model)
    assert {name.split(".")[3] for name in text if "resblocks" in name} == {"2"}
    chosen(model, "locked-image", unlock_last=2)
    image = {name for name in trained(model) if name.startswith("visual.")}
    assert {int(name.split(".")[3]) for name in image if ".blocks." in name} == {10, 11}
    assert any(name.startswith("visual.trunk.attn_pool") for name in image)


def test_a_rule_gives_a_rate_and_a_decay_of_its_own():
    model = net(gated=True)
    groups = chosen(
        model, "gated-image", rules=[r"visual\.ln_post\..*=1e-5", r"visual\.proj=2e-5:0.3"], freeze=[r".*alpha_dense"]
    )
    rates = {name: (group.lr, group.weight_decay) for group in groups for name in group.names}
    assert rates["visual.ln_post.weight"] == (1e-5, 0.0)
    assert rates["visual.proj"] == (2e-5, 0.3)
    assert not any(name.endswith("alpha_dense") for name in rates)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"unlock_last": 13}, "has 12 blocks"),
        ({"rules": ["visual.proj"]}, "EXPRESSION=LR"),
        ({"rules": ["visual.proj=fast"]}, "EXPRESSION=LR"),
        ({"rules": ["nothing=1e-3"]}, "matches no parameter"),
    ],
)
def test_wrong_rules_are_refused(more, says):
    with pytest.raises(ReactvlError, match=says):
        chosen(net(gated=False), "locked-text", **more)
    with pytest.raises(ReactvlError, match="locks no tower"):
        chosen(net(gated=False), "full", unlock_last=1)
