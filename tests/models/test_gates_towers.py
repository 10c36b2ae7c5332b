"""Gates on every kind of ViT tower: equal to the base while shut, REACT's formula in float64 when open, read back from folders."""

import copy
import json
import math

import pytest
import torch
from torch import nn

from reactvl.clip_imports import open_clip, timm
from reactvl.manifest import ReactvlError
from reactvl.models import load
from reactvl.models.encoder import Encoder
from reactvl.models.gates import gate_openings, gated_layers, insert_gates, residual_blocks
from reactvl.models.model import Model, construct, with_gates

SIZE = 32
TEXT = {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}


class Trunk(nn.Module):
    """A timm tower as open_clip's TimmModel holds it."""

    def __init__(self, trunk: nn.Module):
        super().__init__()
        self.trunk = trunk

    def forward(self, x):
        return self.trunk(x)


def open_clip_tower(custom: bool = False, quick_gelu: bool = False, **vision) -> nn.Module:
    vision = {"image_size": SIZE, "patch_size": 8, "width": 64, "head_width": 32, "layers": 3} | vision
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    return kind(24, vision, TEXT, quick_gelu=quick_gelu).visual


def length_first() -> nn.Module:
    """Older layout: tokens (L, N, D) inside the transformer."""
    visual = open_clip_tower()
    visual.transformer = open_clip.transformer.Transformer(64, 3, 2, batch_first=False)
    return visual


def timm_vit(**changes) -> nn.Module:
    kind = timm.models.vision_transformer.VisionTransformer
    return Trunk(kind(img_size=SIZE, patch_size=8, embed_dim=48, depth=3, num_heads=3, num_classes=24, **changes))


def eva(**changes) -> nn.Module:
    shape = {"img_size": SIZE, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 24}
    return Trunk(timm.models.eva.Eva(**shape | changes))


def relative() -> nn.Module:
    kind = timm.models.vision_transformer_relpos.VisionTransformerRelPos
    return Trunk(kind(img_size=SIZE, patch_size=8, embed_dim=48, depth=3, num_heads=3, num_classes=24))


ROTARY = {"use_rot_pos_emb": True, "rope_grid_offset": 1.0, "rope_grid_indexing": "xy", "ref_feat_shape": (4, 4)}
TOWERS = {
    "CLIP": open_clip_tower,
    "CLIP quickgelu": lambda: open_clip_tower(quick_gelu=True),
    "CustomTextCLIP": lambda: open_clip_tower(custom=True),
    "length first": length_first,
    "layer scale": lambda: open_clip_tower(ls_init_value=0.1),
    "norm and activation options": lambda: open_clip_tower(
        norm_kwargs={"eps": 1e-2}, act_kwargs={"approximate": "tanh"}
    ),
    "average pool, norm after": lambda: open_clip_tower(pool_type="avg", final_ln_after_pool=True, no_ln_pre=True),
    "attention pool": lambda: open_clip_tower(attentional_pool=True, attn_pooler_heads=2, attn_pooler_queries=4),
    "custom blocks": lambda: open_clip_tower(qk_norm=True, scale_heads=True, scale_attn=True, scale_fc=True),
    "bigG's MLP ratio": lambda: open_clip_tower(mlp_ratio=4.9231),
    "SigLIP": lambda: timm_vit(class_token=False, global_pool="map", act_layer="gelu_tanh"),
    "timm CLIP": lambda: timm_vit(pre_norm=True, act_layer="quick_gelu", norm_layer=nn.LayerNorm),
    "timm layer scale, registers, q and k norms": lambda: timm_vit(init_values=0.1, reg_tokens=2, qk_norm=True),
    "timm RMS norm, GLU": lambda: timm_vit(norm_layer="rmsnorm", mlp_layer=timm.layers.SwiGLUPacked),
    "timm post-norm": lambda: timm_vit(block_fn=timm.models.vision_transformer.ResPostBlock),
    "timm relative positions": relative,
    "PE-Core": lambda: eva(
        attn_type="rope", use_pre_transformer_norm=True, global_pool="map", attn_pool_num_heads=3, **ROTARY
    ),
    "PE-Core without a class token": lambda: eva(attn_type="rope", class_token=False, global_pool="map", **ROTARY),
    "EVA-02": lambda: eva(swiglu_mlp=True, scale_mlp=True, qkv_fused=False, use_rot_pos_emb=True, init_values=0.2),
    "EVA giant": eva,
    "EVA-02 enormous": lambda: eva(use_post_norm=True),
    "mixed rotary positions": lambda: eva(attn_type="rope", use_rot_pos_emb=True, rope_type="mixed"),
    "DINOv3's rotary positions": lambda: eva(
        attn_type="rope", use_rot_pos_emb=True, rope_type="dinov3", rope_rotate_half=True, num_reg_tokens=2
    ),
}


def tower(kind: str) -> nn.Module:
    """A tower with random weights of a size at which every part matters."""
    torch.manual_seed(0)
    visual = TOWERS[kind]().eval()
    with torch.no_grad():
        for parameter in visual.parameters():
            if parameter.ndim < 2:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    return visual


@pytest.mark.parametrize("kind", TOWERS)
def test_shut_gates_are_open_clips_own_tower(kind):
    visual, images = tower(kind), torch.randn(2, 3, SIZE, SIZE)
    with torch.inference_mode():
        before = visual(images)
        insert_gates(visual, 2)
        assert torch.equal(visual(images), before)
    assert gated_layers(visual) == [1, 2]
    place = "trunk.blocks" if isinstance(visual, Trunk) else "transformer.resblocks"
    gates = {name for name in visual.state_dict() if "gated_attn_block" in name}
    assert all(name.startswith(f"{place}.") and name.split(".")[2] in "12" for name in gates)
    tensors = {name.partition("gated_attn_block.")[2] for name in gates}
    assert tensors - {"ls_1.gamma", "ls_2.gamma", "ln_1.bias", "ln_2.bias"} == TENSORS  # RMS norms have no bias
    gate = residual_blocks(visual)[2].gated_attn_block
    width = gate.ln_1.weight.shape[0]
    assert gate.mlp.c_fc.weight.shape == (4 * width, width)


TENSORS = {
    "alpha_attn", "alpha_dense", "ln_1.weight", "attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj.weight",
    "attn.out_proj.bias", "ln_2.weight", "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias",
}  # fmt: skip
ACTS = {
    "CLIP quickgelu": "quick", "timm CLIP": "quick", "SigLIP": "tanh", "norm and activation options": "tanh",
    "EVA-02": "silu",
}  # fmt: skip


@pytest.mark.parametrize("kind", TOWERS)
def test_open_gates_are_the_formula_in_front_of_the_base_blocks(kind):
    """The gated tower against the plain one whose last two blocks are handed tokens that went through the restated gates."""
    visual = tower(kind).double()
    base = copy.deepcopy(visual)
    insert_gates(visual, 2)
    with torch.no_grad():
        for name, parameter in visual.named_parameters():
            if "gated_attn_block" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.3)
    for index in (1, 2):
        host, gate = residual_blocks(base)[index], residual_blocks(visual)[index].gated_attn_block
        host.register_forward_pre_hook(restating(host, gate.state_dict(), kind), with_kwargs=True)
    images = torch.randn(2, 3, SIZE, SIZE, dtype=torch.float64)
    with torch.inference_mode():
        gated, wanted, shut = visual(images), base(images), tower(kind).double()(images)
    assert (gated - wanted).abs().max() < 1e-6 * wanted.abs().max()
    assert (gated - shut).abs().max() > 1e-3 * wanted.abs().max()


def restating(host: nn.Module, w: dict[str, torch.Tensor], kind: str):
    """A hook that sends a block's tokens through REACT's block, written out in float64."""
    norm = getattr(host, "ln_1", None) or host.norm1
    heads = host.attn.num_heads
    shape = {
        "heads": heads, "eps": norm.eps, "centred": "RMS" not in kind, "act": ACTS.get(kind, "gelu"),
        "prefix": getattr(host.attn, "num_prefix_tokens", 0), "half": getattr(host.attn, "rotate_half", False),
    }  # fmt: skip

    def hook(module, args, kwargs):
        x = args[0].transpose(0, 1) if kind == "length first" else args[0]
        x = restated(x, w, rope=kwargs.get("rope"), **shape)
        return (x.transpose(0, 1) if kind == "length first" else x, *args[1:]), kwargs

    return hook


def restated(x, w, *, heads, eps, centred, act, rope, prefix, half):
    def norm(x, name):
        if centred:
            x = x - x.mean(-1, keepdim=True)
        return x / ((x**2).mean(-1, keepdim=True) + eps).sqrt() * w[name + ".weight"] + w.get(name + ".bias", 0)

    def activation(x):
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        return {
            "gelu": lambda: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
            "quick": lambda: x / (1 + torch.exp(-1.702 * x)),
            "tanh": lambda: x * 0.5 * (1 + torch.tanh(inner)),
            "silu": lambda: x / (1 + torch.exp(-x)),
        }[act]()

    def turned(x):  # rotary positions: pairs of numbers are points in the plane, turned by an angle that tells place
        if rope is None:
            return x
        sin, cos = rope.double().chunk(2, -1)
        still, moving = x[:, :, :prefix], x[:, :, prefix:]
        if half:
            a, b = moving.chunk(2, -1)
            across = torch.cat([-b, a], -1)
        else:
            across = torch.stack([-moving[..., 1::2], moving[..., ::2]], -1).flatten(-2)
        return torch.cat([still, moving * cos + across * sin], 2)

    batch, length, width = x.shape
    q, k, v = (norm(x, "ln_1") @ w["attn.in_proj_weight"].T + w["attn.in_proj_bias"]).chunk(3, -1)
    q, k, v = (part.view(batch, length, heads, -1).transpose(1, 2) for part in (q, k, v))
    odds = (turned(q) @ turned(k).transpose(-1, -2) / math.sqrt(width // heads)).softmax(-1)
    mixed = (odds @ v).transpose(1, 2).reshape(batch, length, width)
    attended = mixed @ w["attn.out_proj.weight"].T + w["attn.out_proj.bias"]
    x = x + torch.tanh(w["alpha_attn"].double()) * attended * w.get("ls_1.gamma", 1)
    hidden = activation(norm(x, "ln_2") @ w["mlp.c_fc.weight"].T + w["mlp.c_fc.bias"])
    grown = hidden @ w["mlp.c_proj.weight"].T + w["mlp.c_proj.bias"]
    return x + torch.tanh(w["alpha_dense"].double()) * grown * w.get("ls_2.gamma", 1)


@pytest.mark.parametrize("kind", ["custom blocks", "layer scale", "SigLIP", "PE-Core"])
def test_only_the_alphas_get_a_gradient_on_the_first_step(kind):
    visual = tower(kind).requires_grad_(False)
    insert_gates(visual, 2)
    visual(torch.randn(2, 3, SIZE, SIZE)).square().sum().backward()
    moved = {name for name, p in visual.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert moved == {n for n, _ in visual.named_parameters() if n.endswith(("alpha_attn", "alpha_dense"))}
    assert len(moved) == len(gate_openings(visual)) == 4
    assert all(p.requires_grad for n, p in visual.named_parameters() if "gated_attn_block" in n)


@pytest.mark.parametrize("kind", ["CLIP", "SigLIP"])
def test_checkpointed_blocks_keep_their_gates(kind):
    """Gradient checkpointing of open_clip and of timm calls the blocks in another way."""
    grads = []
    for checkpointing in (False, True):
        visual = tower(kind)
        insert_gates(visual, 2)
        getattr(visual, "trunk", visual).set_grad_checkpointing(checkpointing)
        visual.train()(torch.ones(2, 3, SIZE, SIZE)).square().sum().backward()
        grads.append([p.grad for n, p in visual.named_parameters() if "alpha" in n])
    assert all(torch.allclose(a, b) for a, b in zip(*grads, strict=True)) and grads[0][0] != 0


def test_layer_scale_starts_at_the_size_of_the_hosts():
    visual = open_clip_tower(ls_init_value=0.25)
    insert_gates(visual, 1)
    gate = residual_blocks(visual)[2].gated_attn_block
    assert torch.equal(gate.ls_1.gamma, torch.full((64,), 0.25)) and gate.ls_2.gamma.requires_grad


def test_gates_take_the_dtype_of_a_half_precision_tower():
    visual = tower("CLIP").bfloat16()
    insert_gates(visual, 1)
    gate = residual_blocks(visual)[2].gated_attn_block
    assert gate.mlp.c_fc.weight.dtype == torch.bfloat16 and gate.alpha_attn.dtype == torch.float32
    assert visual(torch.randn(1, 3, SIZE, SIZE, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("visual", "name"),
    [
        (lambda: open_clip.modified_resnet.ModifiedResNet([1, 1, 1, 1], 32, 4, image_size=64, width=8), "ModifiedResNet"),
        (lambda: Trunk(timm.create_model("test_convnext")), "ConvNeXt, test_convnext"),
        (lambda: Trunk(timm.create_model("test_resnet")), "ResNet, test_resnet"),
        (lambda: timm_vit(block_fn=timm.models.vision_transformer.ParallelScalingBlock), "VisionTransformer"),
        (lambda: Trunk(nn.Identity()), "Identity"),
    ],
)  # fmt: skip
def test_towers_without_residual_attention_blocks_are_named(visual, name):
    with pytest.raises(ReactvlError, match=rf"the image tower \({name}\) has no residual attention blocks"):
        insert_gates(visual(), 1)


def test_a_tower_gets_gates_once():
    visual = tower("SigLIP")
    insert_gates(visual, 1)
    with pytest.raises(ReactvlError, match="has gates already, in blocks 2 to 2"):
        insert_gates(visual, 2)


CONFIGS = {
    "SigLIP": {
        "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none"},
        "init_logit_bias": -10.0,
    },
    "timm with a projection": {
        "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear"},
    },
    "PE-Core": {
        "vision_cfg": {"image_size": 384, "timm_model_name": "vit_pe_core_tiny_patch16_384", "timm_pool": "map"}
        | {"timm_proj": None},
    },
    "CustomTextCLIP": {
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "head_width": 32, "layers": 3}
        | {"ls_init_value": 0.1},
        "quick_gelu": True,
    },
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_gated_folders_of_every_kind_are_read_back(kind, tmp_path):
    model_cfg = {"embed_dim": 96, "custom_text": True, "text_cfg": TEXT | {"vocab_size": 49408}} | CONFIGS[kind]
    if kind == "SigLIP":
        model_cfg["text_cfg"] |= {
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
        }
    config = {"model_cfg": model_cfg, "preprocess_cfg": {"size": model_cfg["vision_cfg"]["image_size"]}, "reactvl": {}}
    torch.manual_seed(0)
    base = Model("base", construct(config), config)
    gated = with_gates(base, 2)
    pixels = torch.randint(0, 256, (1, 3, base.image_size, base.image_size), dtype=torch.uint8)
    assert torch.equal(gated.encode_image(pixels), base.encode_image(pixels))
    with torch.no_grad():
        for name, parameter in gated.net.named_parameters():
            if "alpha" in name or "ls_" in name:
                parameter.fill_(0.7)
    assert not torch.allclose(gated.encode_image(pixels), base.encode_image(pixels), atol=1e-5)
    packed = torch.from_numpy(Encoder(gated, precision="fp32", device="cpu").images(pixels))
    assert torch.allclose(packed, gated.encode_image(pixels), atol=1e-5)  # packed weights, the gates' rotation included
    gated.save(tmp_path / "gated")
    assert json.loads((tmp_path / "gated" / "open_clip_config.json").read_text())["reactvl"] == {"last_k": 2}
    again = load(str(tmp_path / "gated"))
    assert again.id.sha256 == gated.id.sha256
    assert torch.equal(again.encode_image(pixels), gated.encode_image(pixels))
    assert torch.equal(again.encode_text(["a red panda"]), gated.encode_text(["a red panda"]))
