"""The layers of the fast training step against torch's own, in value and in every gradient."""

import copy

import pytest
import torch
from torch import nn

from reactvl.clip_imports import open_clip
from reactvl.models.prepacked import can_prepack
from reactvl.train.products import Attention, Linear, Mixture, Mlp, Patches, accelerated

pytestmark = pytest.mark.skipif(not can_prepack("fp32"), reason="torch without oneDNN's packed products")
PRECISIONS = [
    (torch.float32, 2e-5),
    pytest.param(torch.bfloat16, 2e-2, marks=pytest.mark.skipif(not can_prepack("bf16"), reason="no bf16 here")),
]
QuickGELU = open_clip.transformer.QuickGELU


def mlp(activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(32, 64), activation, nn.Linear(64, 32))


LAYERS = {
    "linear": lambda: nn.Linear(32, 48),
    "linear without bias": lambda: nn.Linear(32, 48, bias=False),
    "gelu": lambda: mlp(nn.GELU()),
    "tanh gelu": lambda: mlp(nn.GELU(approximate="tanh")),
    "quick gelu": lambda: mlp(QuickGELU()),
    "attention": lambda: nn.MultiheadAttention(32, 4, batch_first=True),
    "attention, length first": lambda: nn.MultiheadAttention(32, 4),
}
TRAINED = {"all": lambda name: True, "none": lambda name: False, "last": lambda name: name.startswith(("2.", "out_"))}


def call(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return (
        module(x, x, x, need_weights=False)[0] if isinstance(module, nn.MultiheadAttention | Attention) else module(x)
    )


def close(found: torch.Tensor, wanted: torch.Tensor, within: float) -> bool:
    """By the norm of the difference: bf16 has 8 bits."""
    return bool((found.double() - wanted).norm() <= within * wanted.norm() + 1e-9)


@pytest.mark.parametrize("trained", TRAINED)
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("dtype", "within"), PRECISIONS)
def test_values_and_gradients_are_those_of_float64(kind, trained, dtype, within):
    torch.manual_seed(0)
    layer = LAYERS[kind]()
    for name, parameter in layer.named_parameters():
        nn.init.normal_(parameter, std=0.3)
        parameter.requires_grad_(TRAINED[trained](name))
    exact, fast = copy.deepcopy(layer).double(), accelerated(copy.deepcopy(layer), dtype)
    assert isinstance(fast, Linear | Mlp | Attention)
    x, gradient = torch.randn(3, 7, 32, requires_grad=True), None
    other = x.detach().double().requires_grad_()
    wanted, found = call(exact, other), call(fast, x)
    assert found.dtype == dtype and close(found, wanted, within)
    gradient = torch.randn(wanted.shape)
    wanted.backward(gradient.double())
    found.backward(gradient.to(dtype))
    assert close(x.grad, other.grad, within)
    mine = dict(fast.named_parameters()) if not isinstance(fast, Mlp) else {}
    names = {"0": "first", "2": "last"} if isinstance(fast, Mlp) else {}
    for name, parameter in exact.named_parameters():
        first, _, rest = name.rpartition(".")
        place = f"original.{name}" if isinstance(fast, Attention) else f"{names.get(first, first)}.{rest}".lstrip(".")
        own = (mine or dict(fast.named_parameters()))[place]
        assert own.requires_grad == TRAINED[trained](name)
        if own.requires_grad:
            assert own.grad.dtype == torch.float32 and close(own.grad, parameter.grad, within), name
        else:
            assert own.grad is None


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("dtype", "within"), PRECISIONS)
def test_an_optimizers_update_is_seen(dtype, within, fused):
    torch.manual_seed(0)
    layer = mlp(QuickGELU())
    fast = accelerated(copy.deepcopy(layer), dtype)
    optimizer = torch.optim.AdamW(fast.parameters(), lr=0.1, fused=fused)
    other = torch.optim.AdamW(layer.parameters(), lr=0.1)
    x = torch.randn(5, 32)
    before = fast(x).detach()
    for net, steps in ((fast, optimizer), (layer, other)):
        net(x).float().square().sum().backward()
        steps.step()
    assert (fast(x) - before).abs().max() > 0.1
    assert close(fast(x).detach(), layer(x).detach().double(), 5 * within)


def test_a_frozen_layer_keeps_nothing_of_its_input():
    layer = nn.Linear(32, 48).requires_grad_(False)
    x = torch.randn(4, 32, requires_grad=True)
    assert Linear(layer.weight, layer.bias, torch.float32)(x).grad_fn.saved_tensors == ()
    layer.weight.requires_grad_(True)
    assert len(Linear(layer.weight, layer.bias, torch.float32)(x).grad_fn.saved_tensors) == 1


def test_mixture_passes_the_numeric_check_of_gradients():
    torch.manual_seed(0)
    joint = torch.randn(2, 5, 3 * 8, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda joint: Mixture.apply(joint, 2), joint)


@pytest.mark.parametrize(("dtype", "within"), PRECISIONS)
@pytest.mark.parametrize("trained", [True, False])
def test_the_first_tokens_attention_is_the_first_of_all(dtype, within, trained):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(32, 4, batch_first=True).requires_grad_(trained)
    exact, fast = copy.deepcopy(layer).double(), accelerated(copy.deepcopy(layer), dtype).for_first()
    x = torch.randn(3, 7, 32, requires_grad=True)
    other = x.detach().double().requires_grad_()
    gradient = torch.randn(3, 1, 32)
    wanted = exact(other, other, other, need_weights=False)[0][:, :1]
    found = fast.first(x)
    wanted.backward(gradient.double())
    found.backward(gradient.to(dtype))
    assert close(found, wanted, within) and close(x.grad, other.grad, within)
    if trained:
        assert close(fast.original.in_proj_weight.grad, exact.in_proj_weight.grad, within)
        assert close(fast.original.in_proj_bias.grad, exact.in_proj_bias.grad, within)


@pytest.mark.parametrize("trained", [True, False])
def test_patches_have_the_gradients_of_a_convolution(trained):
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 8, (2, 3), stride=(2, 3)).requires_grad_(trained)
    exact, fast = copy.deepcopy(layer).double(), accelerated(copy.deepcopy(layer), torch.float32)
    assert isinstance(fast, Patches)
    x = torch.randn(2, 3, 7, 9, requires_grad=True)
    other = x.detach().double().requires_grad_()
    wanted, found = exact(other), fast(x)
    gradient = torch.randn(wanted.shape)
    wanted.backward(gradient.double())
    found.backward(gradient)
    assert close(found, wanted, 1e-5) and close(x.grad, other.grad, 1e-5)
    if trained:
        assert close(fast.product.weight.grad, exact.weight.grad, 1e-5)
        assert close(fast.product.bias.grad, exact.bias.grad, 1e-5)


@pytest.mark.parametrize(
    "attention",
    [
        nn.MultiheadAttention(32, 4, batch_first=True, dropout=0.1),
        nn.MultiheadAttention(32, 4, batch_first=True, add_bias_kv=True),
        nn.MultiheadAttention(32, 4, batch_first=True, kdim=16, vdim=16),
    ],
)
def test_an_attention_of_another_kind_is_left_alone(attention):
    assert accelerated(attention, torch.float32) is attention


def test_attention_under_a_mask_goes_to_torchs_own():
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(32, 4, batch_first=True)
    fast, x = accelerated(copy.deepcopy(layer), torch.float32), torch.randn(2, 6, 32)
    mask = torch.full((6, 6), float("-inf")).triu(1)
    wanted = layer(x, x, x, need_weights=False, attn_mask=mask)[0]
    assert torch.allclose(fast(x, x, x, need_weights=False, attn_mask=mask)[0], wanted, atol=1e-6)


@pytest.mark.parametrize("trained", [True, False])
def test_layers_held_for_a_gpu_give_the_same(trained):
    torch.manual_seed(0)
    block = nn.ModuleDict({"mlp": mlp(QuickGELU()), "attn": nn.MultiheadAttention(32, 4, batch_first=True)})
    block.requires_grad_(trained)
    exact, fast = copy.deepcopy(block).double(), accelerated(copy.deepcopy(block), torch.bfloat16, packed=False)
    x = torch.randn(3, 7, 32, requires_grad=True)
    other = x.detach().double().requires_grad_()
    wanted = call(exact["attn"], exact["mlp"](other))
    with torch.autocast("cpu", torch.bfloat16):
        found = call(fast["attn"], fast["mlp"](x))
    wanted.square().sum().backward()
    found.double().square().sum().backward()
    assert close(found, wanted, 3e-2) and close(x.grad, other.grad, 3e-2)
    if trained:
        assert close(fast["mlp"][0].weight.grad, exact["mlp"][0].weight.grad, 3e-2)
