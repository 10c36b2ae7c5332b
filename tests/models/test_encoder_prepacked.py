"""A tower that computes from packed weights gives the vectors of the tower that it was made of."""

import copy

import numpy as np
import pytest
import torch
from tests_support import SMALL
from torch import nn

from reactvl.models.encoder import Encoder, choose_devices
from reactvl.models.gates import insert_gates
from reactvl.models.model import Model, construct
from reactvl.models.prepacked import PackedAttention, PackedLinear, PackedPatches, can_prepack, packed

needs_onednn = pytest.mark.skipif(not can_prepack("fp32"), reason="torch without oneDNN's packed products")
needs_bf16 = pytest.mark.skipif(not can_prepack("bf16"), reason="no bf16 here")
TEXTS = ["a red panda", "two", "a much longer caption of a red panda in a tree", "a red panda", ""]


def model_of(**changes) -> Model:
    config = copy.deepcopy(SMALL)
    for name, change in changes.items():
        if isinstance(change, dict):
            config["model_cfg"].setdefault(name, {}).update(change)
        else:
            config["model_cfg"][name] = change
    torch.manual_seed(1)
    net = construct(config)
    for parameter in net.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)  # no bias or scale stays at 0 or 1
    return Model("small", net, config)


def gated() -> Model:
    model = model_of()
    insert_gates(model.net.visual, 2)
    for name, parameter in model.net.named_parameters():
        if "gated_attn_block" in name:
            parameter.data += 0.2 * torch.randn_like(parameter)
    model.net.eval()
    return model


MODELS = {
    "plain": model_of,
    "quick_gelu": lambda: model_of(quick_gelu=True),
    "layer scale": lambda: model_of(vision_cfg={"ls_init_value": 0.3}),
    "text tower of its own": lambda: model_of(custom_text=True),
    "pixels that do not divide into patches": lambda: model_of(vision_cfg={"image_size": 35}),
    "gated": gated,
}


def pixels(model: Model) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (70, 3, model.image_size, model.image_size), dtype=np.uint8))


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """The largest 1 - cosine of two sets of vectors."""
    one, other = (x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1)[:, None] for x in (one, other))
    return float((1 - (one * other).sum(axis=1)).max())


@needs_onednn
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(("precision", "within"), [("fp32", 1e-6), pytest.param("bf16", 1e-3, marks=needs_bf16)])
def test_vectors_are_those_of_the_network_itself(kind, precision, within):
    model = MODELS[kind]()
    encoder = Encoder(model, device="cpu", precision=precision)
    images, texts = pixels(model), [text for text in TEXTS if text]
    assert distance(encoder.images(images), model.encode_image(images).numpy()) < within
    assert distance(encoder.texts(texts), model.encode_text(texts).numpy()) < within
    assert any(isinstance(module, PackedLinear) for module in encoder._image_net.visual.modules())
    assert not any(isinstance(module, PackedLinear) for module in model.net.modules())


@needs_onednn
def test_the_model_is_left_as_it_was():
    model = gated()
    names, before = list(model.net.state_dict()), model.id.sha256
    images = pixels(model)
    wanted = model.encode_image(images)
    encoder = Encoder(model, device="cpu", precision="fp32")
    encoder.images(images)
    encoder.texts(TEXTS)
    del model.__dict__["id"]
    assert list(model.net.state_dict()) == names and model.id.sha256 == before
    assert torch.equal(model.encode_image(images), wanted)


def test_without_packed_products_the_network_itself_is_used(monkeypatch):
    from reactvl.models import encoder as module

    model = model_of()
    wanted = Encoder(model, device="cpu", precision="fp32").images(pixels(model))
    monkeypatch.setattr(module, "can_prepack", lambda precision: False)
    encoder = Encoder(model, device="cpu", precision="fp32")
    assert encoder._image_net is model.net and encoder._text_net is model.net
    assert distance(encoder.images(pixels(model)), wanted) < 1e-6


@needs_onednn
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("length", [5, 301])  # above 300 tokens another kernel is used
def test_attention_is_torchs(batch_first, length):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(16, 2, batch_first=batch_first).eval()
    nn.init.normal_(attention.in_proj_bias)
    made = packed(copy.deepcopy(attention), torch.float32)
    assert isinstance(made, PackedAttention)
    x, other = torch.randn(2, 3, length, 16)
    x, other = (x, other) if batch_first else (x.transpose(0, 1), other.transpose(0, 1))
    causal = torch.full((length, length), float("-inf")).triu(1)
    calls = [
        ((x, x, x), {"need_weights": False}),
        ((x, x, x), {"need_weights": False, "attn_mask": causal}),
        ((x, x, x), {"need_weights": False, "attn_mask": causal.isinf()}),  # True is masked
        ((x, other, other), {"need_weights": False}),
        ((x, x, x), {"need_weights": True}),
    ]
    with torch.inference_mode():
        for tensors, options in calls:
            (wanted, weights), (given, own) = attention(*tensors, **options), made(*tensors, **options)
            assert (wanted - given).abs().max() < 1e-5
            assert (weights is None) == (own is None)


@needs_onednn
@pytest.mark.parametrize(("kernel", "side"), [((4, 4), 16), ((4, 4), 18), ((2, 3), 13)])
def test_patches_are_a_convolution(kernel, side):
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 8, kernel, stride=kernel).eval()
    made = packed(copy.deepcopy(convolution), torch.float32)
    assert isinstance(made, PackedPatches)
    x = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        assert (convolution(x) - made(x)).abs().max() < 1e-5
    assert type(packed(nn.Conv2d(3, 8, 4, stride=2), torch.float32)) is nn.Conv2d


@needs_onednn
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_a_gelu_behind_a_linear_layer_is_the_same_one(approximate):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(8, 16), nn.GELU(approximate), nn.Linear(16, 4), nn.ReLU())
    x = 3 * torch.randn(20, 8)
    with torch.inference_mode():
        wanted = layers(x)
        assert (packed(copy.deepcopy(layers), torch.float32)(x) - wanted).abs().max() < 1e-5


def test_texts_in_steps_are_the_texts_at_once():
    encoder = Encoder(model_of(), device="cpu", precision="fp32")
    texts = [f"{'long ' * (number % 9)}text {number % 300}" for number in range(500)]
    begun = encoder.begin_texts(texts)
    assert len(begun.found) == len(set(texts)) and len(begun.batches) == -(-len(set(texts)) // 128)
    begun.advance(0.5)
    assert 0 < begun.done < len(begun.batches)
    assert np.array_equal(begun.vectors(), encoder.texts(texts))
    assert encoder.texts([]).shape == (0, 32)


def test_devices_are_named_by_a_comma_list(monkeypatch):
    assert [str(one) for one in choose_devices("cpu, cpu")] == ["cpu", "cpu"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert [str(one) for one in choose_devices("cuda:all")] == ["cuda:0", "cuda:1", "cuda:2"]
    assert [str(one) for one in choose_devices("cuda:2,cuda:0")] == ["cuda:2", "cuda:0"]
