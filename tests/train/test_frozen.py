"""The tower split in two computes what the tower computes, and splits at the deepest frozen point."""

import pytest
import torch

from reactvl.clip_imports import open_clip
from reactvl.models.gates import insert_gates
from reactvl.models.hybrid import insert_stem
from reactvl.train.frozen import freeze_statistics, split
from reactvl.train.tuning import choose


def net(gates: int = 0, stem: bool = False) -> torch.nn.Module:
    torch.manual_seed(0)
    vision = {"image_size": 64, "layers": 4, "width": 64, "patch_size": 32, "head_width": 32}
    text = {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}
    model = open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text)
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
    parts = split(model.visual, deepest=deepest)
    pixels = torch.randn(3, 3, 64, 64)
    assert parts.at == at
    with torch.inference_mode():
        assert torch.equal(parts.upper(parts.lower(pixels)), model.visual(pixels))
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert not any(id(tensor) in trained for tensor in parts.state.values())


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
