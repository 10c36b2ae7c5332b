"""Interpolated models: both ends exactly, WiSE-FT between, and gates that open in proportion."""

import copy

import pytest
import torch
from tests_support import SMALL

from reactvl.manifest import ReactvlError
from reactvl.models import load
from reactvl.models.gates import gate_openings
from reactvl.models.interpolation import interpolated
from reactvl.models.model import Model, construct, with_gates

PIXELS = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def moved(model: Model, wanted=lambda name: True, seed: int = 1) -> Model:
    """The model with its tensors moved, as training would."""
    generator = torch.Generator().manual_seed(seed)
    tuned = Model(f"{model.name}-tuned", copy.deepcopy(model.net), copy.deepcopy(model.config))
    with torch.no_grad():
        for name, parameter in tuned.net.named_parameters():
            if wanted(name):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return tuned


@pytest.fixture
def base(small_model):
    return load(small_model)


@pytest.fixture
def gated(base):
    return moved(with_gates(base, 2), lambda name: "gated" in name or name == "logit_scale")


def test_locked_text_weights_are_mixed(base):
    tuned = moved(base, lambda name: name.startswith("visual."))
    model = interpolated(base, tuned, 0.3)
    for name, tensor in model.net.state_dict().items():
        old, new = base.net.state_dict()[name].double(), tuned.net.state_dict()[name].double()
        assert torch.allclose(tensor.double(), 0.7 * old + 0.3 * new, atol=1e-8, rtol=1e-6)
    assert torch.equal(model.encode_text(["a"]), base.encode_text(["a"]))


@pytest.mark.parametrize("kind", ["locked-text", "gated"])
def test_both_ends_are_the_models_themselves(base, gated, kind):
    tuned = gated if kind == "gated" else moved(base, lambda name: name.startswith("visual."))
    start, end = interpolated(base, tuned, 0), interpolated(base, tuned, 1)
    assert torch.equal(start.encode_image(PIXELS), base.encode_image(PIXELS))
    assert start.logit_scale == base.logit_scale
    assert all(
        torch.equal(a, b) for a, b in zip(end.net.state_dict().values(), tuned.net.state_dict().values(), strict=True)
    )
    assert not torch.allclose(start.encode_image(PIXELS), end.encode_image(PIXELS), atol=1e-5)


def test_gates_open_in_proportion_and_their_weights_stay(base, gated):
    with torch.no_grad():  # one gate wide open: in float32 its tanh is 1
        gated.net.visual.transformer.resblocks[1].gated_attn_block.alpha_attn.fill_(12.0)
    model = interpolated(base, gated, 0.5)
    for name, opening in gate_openings(gated.net).items():
        assert gate_openings(model.net)[name] == pytest.approx(opening / 2, abs=1e-6)
    for name, tensor in gated.net.state_dict().items():
        if "gated_attn_block" in name and "alpha" not in name:
            assert torch.equal(model.net.state_dict()[name], tensor)
    middle = (base.net.logit_scale + gated.net.logit_scale) / 2
    assert torch.allclose(model.net.logit_scale, middle)


def test_gates_that_both_have_are_mixed_like_other_tensors(gated):
    tuned = moved(gated, lambda name: "gated" in name, seed=2)
    model = interpolated(gated, tuned, 0.25)
    for name, tensor in model.net.state_dict().items():
        assert torch.allclose(
            tensor, 0.75 * gated.net.state_dict()[name] + 0.25 * tuned.net.state_dict()[name], atol=1e-6
        )


def test_half_precision_and_whole_numbers(base):
    tuned = moved(base)
    for model in (base, tuned):
        model.net.half()
        model.net.register_buffer("counted", torch.tensor(3 if model is base else 7))
    model = interpolated(base, tuned, 0.5)
    assert model.net.counted == 7 and model.net.visual.proj.dtype == torch.float16
    wanted = (base.net.visual.proj.double() + tuned.net.visual.proj.double()) / 2
    assert torch.allclose(model.net.visual.proj.double(), wanted, rtol=1e-3)


def test_the_models_given_stay_as_they_are(base, gated):
    before = {name: tensor.clone() for name, tensor in gated.net.state_dict().items()}
    config = copy.deepcopy(gated.config)
    interpolated(base, gated, 0.5)
    assert gated.config == config and "last_k" not in base.config["reactvl"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in gated.net.state_dict().items())


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), float("inf")])
def test_shares_outside_are_refused(base, share):
    with pytest.raises(ReactvlError, match="from 0"):
        interpolated(base, base, share)


def changed(**model_cfg) -> Model:
    config = copy.deepcopy(SMALL)
    config["model_cfg"] |= model_cfg
    return Model("other", construct(config), config)


def test_models_of_another_architecture_are_refused(base, gated):
    with pytest.raises(ReactvlError, match=r"only the base has visual\.transformer\.resblocks\.0\.gated"):
        interpolated(gated, base, 0.5)
    with pytest.raises(ReactvlError, match="differ in shape: "):
        interpolated(changed(embed_dim=16), base, 0.5)
    with pytest.raises(ReactvlError, match="quick_gelu is True in the base, False in the tuned"):
        interpolated(changed(quick_gelu=True), base, 0.5)
    deeper = {"image_size": 32, "layers": 3, "width": 64, "patch_size": 8, "head_width": 32}
    with pytest.raises(ReactvlError, match=r"only the tuned has visual\.transformer\.resblocks\.2"):
        interpolated(base, changed(vision_cfg=deeper), 0.5)
    other = copy.deepcopy(base.config)
    other["preprocess_cfg"]["mean"] = [0.5, 0.5, 0.5]
    with pytest.raises(ReactvlError, match="preprocessing differs \\(mean"):
        interpolated(base, Model("half", copy.deepcopy(base.net), other), 0.5)
