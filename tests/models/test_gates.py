"""Gates are the identity at the start, carry the released names and shapes, and follow a float64 restatement."""

import math

import numpy as np
import pytest
import torch

from reactvl.clip_imports import open_clip
from reactvl.manifest import ReactvlError
from reactvl.models.gates import gate_openings, gated_layers, insert_gates
from reactvl.models.names import GATED

PER_BLOCK = {
    "react_ViT-B-32": 7_087_874,
    "react_ViT-B-16": 7_087_874,
    "react_ViT-L-14": 12_596_226,
    "react_ViT-bigG-14": 33_248_386,
}
SUMS = {
    "react_ViT-B-32": 193_804_557,
    "react_ViT-B-16": 192_147_981,
    "react_ViT-L-14": 503_193_869,
    "react_ViT-bigG-14": 2_938_547_737,
}
TENSORS = {
    "alpha_attn", "alpha_dense", "ln_1.weight", "ln_1.bias", "attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj.weight",
    "attn.out_proj.bias", "ln_2.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias",
}  # fmt: skip


@pytest.mark.parametrize("name", PER_BLOCK)
def test_names_shapes_and_counts_are_the_released_ones(name):
    architecture, last_k = GATED[name]
    with torch.device("meta"):
        model = open_clip.CLIP(**open_clip.get_model_config(architecture))
        insert_gates(model.visual, last_k)
    prefix = "visual.transformer.resblocks."
    gates = {key: tensor for key, tensor in model.state_dict().items() if "gated_attn_block" in key}
    layers = gated_layers(model.visual)
    total = len(model.visual.transformer.resblocks)
    assert layers == list(range(total - last_k, total))
    assert set(gates) == {f"{prefix}{layer}.gated_attn_block.{tensor}" for layer in layers for tensor in TENSORS}
    assert sum(tensor.numel() for tensor in gates.values()) == PER_BLOCK[name] * last_k
    assert sum(parameter.numel() for parameter in model.parameters()) == SUMS[name]
    first = f"{prefix}{layers[0]}.gated_attn_block."
    width = model.visual.transformer.width
    assert gates[first + "alpha_attn"].shape == gates[first + "alpha_dense"].shape == ()
    assert gates[first + "mlp.c_fc.weight"].shape == (4 * width, width)  # 4.0 also where the host's ratio is another


def tower(**changes) -> torch.nn.Module:
    torch.manual_seed(0)
    config = {
        "image_size": 32,
        "patch_size": 8,
        "width": 64,
        "layers": 3,
        "heads": 2,
        "mlp_ratio": 4.0,
        "output_dim": 24,
    }
    return open_clip.transformer.VisionTransformer(**config | changes).eval()


@pytest.mark.parametrize(
    "changes", [{}, {"act_layer": open_clip.transformer.QuickGELU}, {"ls_init_value": 0.1}, {"mlp_ratio": 4.9231}]
)
def test_fresh_gates_change_nothing(changes):
    visual, images = tower(**changes), torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        before = visual(images)
        insert_gates(visual, 2)
        assert torch.equal(visual(images), before)


@pytest.mark.parametrize("quick", [False, True])
def test_an_open_gate_follows_the_formula(quick):
    visual = tower(act_layer=open_clip.transformer.QuickGELU if quick else torch.nn.GELU)
    insert_gates(visual, 1)
    gate = visual.transformer.resblocks[-1].gated_attn_block
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    tokens = torch.randn(2, 17, 64)
    wanted = restated(
        tokens.double().numpy(), {k: v.double().numpy() for k, v in gate.state_dict().items()}, heads=2, quick=quick
    )
    with torch.inference_mode():
        assert np.abs(gate(tokens).numpy() - wanted).max() < 2e-5  # float32 against float64


def restated(x: np.ndarray, w: dict[str, np.ndarray], heads: int, quick: bool) -> np.ndarray:
    """REACT's gated block in float64 NumPy."""

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w[name + ".weight"] + w[name + ".bias"]

    def act(x):
        return x / (1 + np.exp(-1.702 * x)) if quick else x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    batch, length, width = x.shape
    q, k, v = np.split(norm(x, "ln_1") @ w["attn.in_proj_weight"].T + w["attn.in_proj_bias"], 3, axis=-1)
    q, k, v = (part.reshape(batch, length, heads, -1).transpose(0, 2, 1, 3) for part in (q, k, v))
    scores = q @ k.transpose(0, 1, 3, 2) / math.sqrt(width // heads)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (scores / scores.sum(-1, keepdims=True)) @ v
    attended = (
        mixed.transpose(0, 2, 1, 3).reshape(batch, length, width) @ w["attn.out_proj.weight"].T
        + w["attn.out_proj.bias"]
    )
    x = x + np.tanh(w["alpha_attn"]) * attended
    hidden = act(norm(x, "ln_2") @ w["mlp.c_fc.weight"].T + w["mlp.c_fc.bias"])
    return x + np.tanh(w["alpha_dense"]) * (hidden @ w["mlp.c_proj.weight"].T + w["mlp.c_proj.bias"])


def test_only_the_alphas_get_a_gradient_on_the_first_step():
    visual = tower().requires_grad_(False)
    insert_gates(visual, 2)
    visual(torch.randn(2, 3, 32, 32)).square().sum().backward()
    moved = {name for name, p in visual.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert moved == {name for name in gate_names(visual) if name.endswith(("alpha_attn", "alpha_dense"))}


def gate_names(visual: torch.nn.Module) -> list[str]:
    return [name for name, _ in visual.named_parameters() if "gated_attn_block" in name]


def test_openings_are_tanh_of_the_alphas():
    visual = tower()
    insert_gates(visual, 1)
    with torch.no_grad():
        visual.transformer.resblocks[-1].gated_attn_block.alpha_attn.fill_(-0.5)
    assert sorted(gate_openings(visual).values()) == pytest.approx([0.0, math.tanh(0.5)])


def test_towers_without_blocks_and_bad_counts_are_refused():
    resnet = open_clip.modified_resnet.ModifiedResNet([1, 1, 1, 1], 32, 4, image_size=64, width=8)
    with pytest.raises(ReactvlError, match="no residual attention blocks"):
        insert_gates(resnet, 1)
    with pytest.raises(ReactvlError, match="3 blocks; choose 1 to 3"):
        insert_gates(tower(), 4)
