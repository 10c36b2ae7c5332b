"""The tower split in two computes what the tower computes, and splits at the deepest frozen point."""

import copy

import pytest
import torch

from reactvl.clip_imports import open_clip
from reactvl.models.encoder import autocast
from reactvl.models.gates import insert_gates
from reactvl.models.hybrid import insert_stem
from reactvl.models.prepacked import PackedLinear, can_prepack
from reactvl.train import towers
from reactvl.train.frozen import freeze_statistics, split
from reactvl.train.products import Linear, Mlp
from reactvl.train.tuning import choose

needs_onednn = pytest.mark.skipif(not can_prepack("fp32"), reason="torch without oneDNN's packed products")


def net(gates: int = 0, stem: bool = False, quick: bool = False, **vision) -> torch.nn.Module:
    torch.manual_seed(0)
    vision = {"image_size": 64, "layers": 4, "width": 64, "patch_size": 32, "head_width": 32} | vision
    text = {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}
    kind = open_clip.CustomTextCLIP if "timm_model_name" in vision else open_clip.CLIP
    model = kind(embed_dim=16, vision_cfg=vision, text_cfg=text, quick_gelu=quick)
    if stem:
        insert_stem(model.visual, "tf_efficientnet_lite0", None)
    if gates:
        insert_gates(model.visual, gates)
        for name, parameter in model.named_parameters():
            if "alpha" in name:
                torch.nn.init.constant_(parameter, 0.3)
    return model.eval()


STEM = r"visual\.conv1\.stem\..*"


@pytest.mark.parametrize(
    ("made", "tune", "freeze", "deepest", "at"),
    [
        ({"gates": 2}, "gated-image", [], "block", "block 2"),
        ({"gates": 4}, "gated-image", [], "block", "block 0"),
        ({}, "locked-text", [], "block", "pixels"),
        ({}, "locked-text", [r"visual\.(conv1|class|positional|ln_pre).*"], "block", "block 0"),
        ({"stem": True}, "locked-text", [STEM], "block", "stem"),
        ({"stem": True}, "locked-text", [], "block", "pixels"),
        ({"stem": True, "gates": 2}, "gated-image", [], "block", "block 2"),
        ({"stem": True, "gates": 2}, "gated-image", [], "stem", "stem"),
    ],
)
def test_upper_of_lower_is_the_tower(made, tune, freeze, deepest, at):
    model = net(**made)
    choose(model, tune, lr=1e-3, alpha_lr=1e-2, weight_decay=0.1, freeze=freeze)
    parts = split(model.visual, deepest=deepest, prepack=False)
    pixels = torch.randn(3, 3, 64, 64)
    assert parts.at == at
    with torch.inference_mode():
        wanted = model.visual(pixels)
        assert torch.allclose(parts.upper(parts.lower(pixels)), wanted, atol=1e-6)
        fast = split(model.visual, deepest=deepest)
        assert fast.at == at and torch.allclose(fast.upper(fast.lower(pixels)), wanted, atol=5e-6)
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert not any(id(tensor) in trained for tensor in parts.state.values())


KINDS = {
    "gated": ({"gates": 2}, "gated-image", []),
    "gated, every block": ({"gates": 4}, "gated-image", []),
    "gated, quick": ({"gates": 2, "quick": True}, "gated-image", []),
    "gated, layer scale": ({"gates": 2, "ls_init_value": 0.4}, "gated-image", []),
    "gated, stem": ({"gates": 2, "stem": True}, "gated-image", []),
    "locked-text": ({}, "locked-text", []),
    "locked-text, quick": ({"quick": True}, "locked-text", []),
    "locked-text, stem": ({"stem": True}, "locked-text", [r"visual\.conv1\.stem\..*"]),
    "locked-text, lower frozen": (
        {},
        "locked-text",
        [r"visual\.(conv1|class|positional|ln_pre).*", r".*blocks\.[01]\..*"],
    ),
    "one matrix": ({}, "locked-text", [r"visual\.(?!transformer.resblocks.3.mlp.c_proj.weight).*"]),
    "projection": ({}, "locked-text", [r"visual\.(?!proj).*"]),
    "mean of the tokens": ({"gates": 1, "pool_type": "avg"}, "gated-image", []),
    "attentional pooling": ({"gates": 1, "attentional_pool": True, "attn_pooler_heads": 2}, "gated-image", []),
    "norm after pooling": ({"gates": 1, "final_ln_after_pool": True}, "gated-image", []),
    "normed queries and keys": ({"qk_norm": True}, "locked-text", []),
}


@pytest.mark.parametrize("checkpointed", ["no", "hosts", "all"])
@pytest.mark.parametrize("prepack", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_whole_tower_in_float64(kind, prepack, checkpointed):
    made, tune, freeze = KINDS[kind]
    model = net(**made)
    choose(model, tune, lr=1e-3, alpha_lr=1e-2, weight_decay=0.1, freeze=freeze)
    freeze_statistics(model)
    pixels, gradient = torch.randn(3, 3, 64, 64), torch.randn(3, 16)
    exact = copy.deepcopy(model).double()
    wanted = exact.visual(pixels.double())
    wanted.backward(gradient.double())
    parts = split(model.visual, prepack=prepack, checkpointed=checkpointed)
    found = parts.upper(parts.lower(pixels))
    found.backward(gradient)
    assert (found - wanted).abs().max() < 1e-5
    others = dict(exact.visual.named_parameters())
    scale = max(p.grad.norm() for p in others.values() if p.grad is not None)
    for name, parameter in model.visual.named_parameters():
        assert (parameter.grad is None) == (others[name].grad is None), name
        if parameter.grad is not None:
            assert (parameter.grad - others[name].grad).norm() < 1e-4 * others[name].grad.norm() + 1e-6 * scale, name


@needs_onednn
@pytest.mark.skipif(not can_prepack("bf16"), reason="no bf16 here")
@pytest.mark.parametrize("kind", ["gated", "gated, quick", "locked-text", "locked-text, stem"])
def test_bf16_errs_no_more_than_autocast_does(kind):
    made, tune, freeze = KINDS[kind]
    model = net(**made)
    choose(model, tune, lr=1e-3, alpha_lr=1e-2, weight_decay=0.1, freeze=freeze)
    freeze_statistics(model)
    pixels, gradient = torch.randn(8, 3, 64, 64), torch.randn(8, 16)
    exact = copy.deepcopy(model).double()
    exact.visual(pixels.double()).backward(gradient.double())
    truth = torch.cat([p.grad.flatten() for p in exact.visual.parameters() if p.grad is not None])

    def error(way) -> float:
        model.zero_grad()
        with autocast(torch.device("cpu"), "bf16"):
            features = way(pixels)
        features.float().backward(gradient)
        mine = torch.cat([p.grad.flatten() for p in model.visual.parameters() if p.grad is not None])
        return float((mine - truth).norm() / truth.norm())

    parts = split(model.visual, precision="bf16")
    assert error(lambda x: parts.upper(parts.lower(x))) < 1.2 * error(model.visual) + 1e-3


@needs_onednn
def test_a_step_of_the_optimizer_is_seen_and_the_tower_stays_its_own():
    model = net(gates=2)
    choose(model, "gated-image", lr=1e-3, alpha_lr=1e-2, weight_decay=0.1, freeze=[])
    names = list(model.state_dict())
    parts = split(model.visual)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05, fused=True)
    pixels = torch.randn(3, 3, 64, 64)
    before = parts.upper(parts.lower(pixels))
    before.square().sum().backward()
    optimizer.step()
    after = parts.upper(parts.lower(pixels))
    assert (after - before).abs().max() > 0.1
    assert torch.allclose(after, model.visual(pixels), atol=1e-5)
    assert list(model.state_dict()) == names
    assert not any(isinstance(module, Linear | Mlp | PackedLinear) for module in model.modules())


@pytest.mark.parametrize("prepack", [True, False])
def test_the_last_block_works_on_the_class_token_alone_where_it_can(prepack, monkeypatch):
    lengths = []
    original = towers.head
    monkeypatch.setattr(towers, "head", lambda visual, x: lengths.append(x.shape[1]) or original(visual, x))
    for made in (
        {"gates": 2},
        {"gates": 2, "pool_type": "avg"},
        {"gates": 2, "attentional_pool": True, "attn_pooler_heads": 2},
    ):
        model = net(**made)
        choose(model, "gated-image", lr=1e-3, alpha_lr=1e-2, weight_decay=0.1, freeze=[])
        parts = split(model.visual, prepack=prepack)
        parts.upper(parts.lower(torch.randn(2, 3, 64, 64)))
    assert lengths == [1, 5, 5]


def test_nothing_to_train_in_the_tower_leaves_its_features():
    model = net()
    choose(model, "locked-text", lr=1e-3, alpha_lr=1e-2, weight_decay=0.1, freeze=[r"visual\..*"])
    parts, pixels = split(model.visual), torch.randn(2, 3, 64, 64)
    features = parts.lower(pixels)
    assert parts.at == "features" and torch.allclose(features, model.visual(pixels), atol=1e-5)
    assert parts.upper(features) is features and set(parts.state) == set(model.visual.state_dict())


def test_the_lower_part_keeps_no_graph():
    model = net(gates=2)
    choose(model, "gated-image", lr=1e-3, alpha_lr=1e-2, weight_decay=0.1, freeze=[])
    assert not split(model.visual).lower(torch.randn(2, 3, 64, 64, requires_grad=True)).requires_grad


def test_changing_a_tensor_of_the_lower_part_changes_its_state():
    model = net(gates=2)
    choose(model, "gated-image", lr=1e-3, alpha_lr=1e-2, weight_decay=0.1, freeze=[])
    names = split(model.visual).state
    assert "transformer.resblocks.1.mlp.c_fc.weight" in names
    assert "transformer.resblocks.2.mlp.c_fc.weight" not in names


def test_running_statistics_of_a_frozen_stem_stay():
    model = net(stem=True)
    choose(model, "locked-text", lr=1e-3, alpha_lr=1e-2, weight_decay=0.1, freeze=[STEM])
    freeze_statistics(model)
    before = {name: tensor.clone() for name, tensor in model.visual.conv1.stem.state_dict().items()}
    model.visual(torch.randn(4, 3, 64, 64))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.visual.conv1.stem.state_dict().items())
    assert model.visual.transformer.training


BELOW = r"visual\.trunk\.(patch_embed|cls_token|reg_token|pos_embed|norm_pre|blocks\.0|rope).*"


@pytest.mark.parametrize("checkpointed", ["no", "hosts"])
@pytest.mark.parametrize("prepack", [True, False])
@pytest.mark.parametrize(
    ("architecture", "pool", "freeze", "at"),
    [
        ("vit_tiny_patch16_224", "token", [BELOW], "block 1"),
        ("vit_tiny_patch16_224", "avg", [], "pixels"),
        ("eva02_tiny_patch14_224", "token", [BELOW], "block 1"),  # rotary positions go to every block
        ("vit_tiny_patch16_224", "token", [r"visual\..*"], "features"),
    ],
)
def test_timms_vits_split_too(architecture, pool, freeze, at, prepack, checkpointed):
    model = net(timm_model_name=architecture, timm_pool=pool, timm_proj="linear", image_size=224)
    model.visual.trunk.blocks = model.visual.trunk.blocks[:3]
    choose(model, "locked-text", lr=1e-3, alpha_lr=1e-2, weight_decay=0.1, freeze=freeze)
    freeze_statistics(model)
    parts = split(model.visual, prepack=prepack, checkpointed=checkpointed)
    pixels, gradient = torch.randn(2, 3, 224, 224), torch.randn(2, 16)
    wanted = model.visual(pixels)
    found = parts.upper(parts.lower(pixels))
    assert parts.at == at and torch.allclose(found, wanted, atol=1e-5)
    if at == "features":
        return
    trained = {name: p for name, p in model.visual.named_parameters() if p.requires_grad}
    exact = torch.autograd.grad(wanted, list(trained.values()), gradient, allow_unused=True)
    own = torch.autograd.grad(found, list(trained.values()), gradient, allow_unused=True)
    scale = max(one.norm() for one in exact if one is not None)
    for name, one, other in zip(trained, own, exact, strict=True):
        assert (one is None) == (other is None), name
        if one is not None:
            assert (one - other).norm() < 1e-4 * other.norm() + 1e-6 * scale, name


def test_a_tower_of_another_kind_is_left_whole():
    model = net(timm_model_name="resnet10t", timm_pool="avg", timm_proj="linear")
    parts = split(model.visual)
    pixels = torch.randn(2, 3, 64, 64)
    assert parts.at == "pixels" and parts.upper is model.visual and parts.lower(pixels) is pixels
