"""REACT's gated blocks: new residual blocks in front of the frozen ones of a ViT image tower.

    x = x + tanh(alpha_attn)  * attn(ln_1(x))
    x = x + tanh(alpha_dense) * mlp(ln_2(x))

Both alphas start at 0, so that the gated tower starts exactly equal to the base. Towers are open_clip's own ViTs, and timm's
(SigLIP, SigLIP2, PE-Core, EVA, MobileCLIP-B, ...). State-dict names are the released code's behind the block's own name,
`visual.transformer.resblocks.{i}.gated_attn_block.{alpha_attn,alpha_dense,ln_1,attn,ln_2,mlp}...`, or `visual.trunk.blocks.{i}.`
of a timm tower. Follows "Learning Customized Visual Models with Retrieval-Augmented Knowledge" (CVPR 2023, arXiv 2301.07094),
section 3.

A gate takes from its host block the width, heads, activation, kind of norm, LayerScale and layout, and nothing else: no mask, no
norm of queries and keys, no gated (GLU) MLP, no drop path. Rotary positions are the exception: where the host rotates its
queries and keys the gate does the same, because such a tower has few or no other positions.
"""

import copy
import functools
from collections import OrderedDict
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reactvl.clip_imports import open_clip, timm
from reactvl.manifest import ReactvlError

MLP_RATIO = 4  # of the gate, also where the host's is another (bigG: host 8192 wide, gate 6656)

HOSTS = (
    open_clip.transformer.ResidualAttentionBlock,
    open_clip.transformer.CustomResidualAttentionBlock,
    timm.models.vision_transformer.Block,
    timm.models.vision_transformer.ResPostBlock,
    timm.models.vision_transformer_relpos.RelPosBlock,
    timm.models.eva.EvaBlock,
    timm.models.eva.EvaBlockPostNorm,
)


def insert_gates(visual: nn.Module, last_k: int) -> None:
    """Give the last `last_k` blocks of an image tower a gate each, in place.

    Raises ReactvlError for a tower without residual attention blocks, one that has gates already, and a `last_k` outside
    1..layers.
    """
    blocks = residual_blocks(visual)
    if not 1 <= last_k <= len(blocks):
        raise ReactvlError(f"last_k = {last_k}: the image tower has {len(blocks)} blocks; choose 1 to {len(blocks)}")
    if there := gated_layers(visual):
        raise ReactvlError(f"last_k = {last_k}: the image tower has gates already, in blocks {there[0]} to {there[-1]}")
    for block in list(blocks)[len(blocks) - last_k :]:
        block.gated_attn_block = GatedBlock(block)
        block.__class__ = gated_class(type(block))


def residual_blocks(visual: nn.Module) -> nn.ModuleList | nn.Sequential:
    """The residual attention blocks of a ViT tower, from the bottom: open_clip's `transformer.resblocks`, timm's `trunk.blocks`.

    Raises ReactvlError, with the tower's name, for a tower that has none.
    """
    blocks = blocks_of(visual)
    if not isinstance(blocks, nn.ModuleList | nn.Sequential) or not all(isinstance(one, HOSTS) for one in blocks):
        raise ReactvlError(
            f"the image tower ({tower_name(visual)}) has no residual attention blocks to gate; choose a ViT or tune locked-text"
        )
    return blocks


def blocks_of(visual: nn.Module) -> Iterable[nn.Module] | None:
    """What stands where a ViT has its blocks; None when there is nothing."""
    transformer = getattr(visual, "transformer", None)
    found = getattr(transformer, "resblocks", None) or getattr(getattr(visual, "trunk", None), "blocks", None)
    return found or None


def tower_name(visual: nn.Module) -> str:
    """`ModifiedResNet`, or `ConvNeXt, convnext_base` of a timm tower."""
    trunk = getattr(visual, "trunk", visual)
    architecture = (getattr(trunk, "pretrained_cfg", None) or {}).get("architecture")
    return ", ".join(filter(None, (type(trunk).__name__, architecture)))


def gated_layers(visual: nn.Module) -> list[int]:
    """The indices of the blocks that carry a gate."""
    blocks = blocks_of(visual)
    if not isinstance(blocks, nn.ModuleList | nn.Sequential):
        return []
    return [index for index, block in enumerate(blocks) if hasattr(block, "gated_attn_block")]


def gate_openings(net: nn.Module) -> dict[str, float]:
    """|tanh(alpha)| of every gate by parameter name: 0 is shut, 1 is open."""
    return {
        name: abs(float(torch.tanh(parameter.detach().float())))
        for name, parameter in net.named_parameters()
        if is_alpha(name)
    }


def is_gate(name: str) -> bool:
    """Whether a parameter's name is one of a gate's."""
    return ".gated_attn_block." in name


def is_alpha(name: str) -> bool:
    """Whether a parameter's name is a gate's opening."""
    return is_gate(name) and name.endswith((".alpha_attn", ".alpha_dense"))


@functools.cache
def gated_class(host: type[nn.Module]) -> type[nn.Module]:
    """The host block's class, its forward calling the gate first."""

    def forward(self, x: Tensor, *others, **named) -> Tensor:
        return host.forward(self, self.gated_attn_block(x, named.get("rope")), *others, **named)

    return type(f"Gated{host.__name__}", (host,), {"forward": forward})


class GatedBlock(nn.Module):
    """One gate, shaped after its host block: tokens in, tokens of the same shape out ((N, L, D) or, as the host, (L, N, D)).

    Made on the host's device and in its dtype, the alphas in float32. The norms start as the identity; the other weights at
    PyTorch's default initialisation, but for LayerScale (`like_layer_scale`).
    """

    def __init__(self, host: nn.Module):
        super().__init__()
        norm = first(host, "ln_1", "norm1")
        activation = first(host.mlp, "gelu", "act")
        weight = next(host.mlp.parameters())
        made = {"device": weight.device, "dtype": weight.dtype}
        width = norm.normalized_shape[0]
        self.ln_1 = like_norm(norm)
        self.attn = attention(host.attn, width, made)  # owns the weights; see attend
        self.ls_1 = like_layer_scale(first(host, "ls_1", "ls1", "gamma_1"))
        self.ln_2 = like_norm(first(host, "ln_2", "norm2"))
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, MLP_RATIO * width, **made),
                gelu=copy.deepcopy(activation),
                c_proj=nn.Linear(MLP_RATIO * width, width, **made),
            )
        )
        self.ls_2 = like_layer_scale(first(host, "ls_2", "ls2", "gamma_2"))
        self.alpha_attn = nn.Parameter(torch.zeros((), device=weight.device))
        self.alpha_dense = nn.Parameter(torch.zeros((), device=weight.device))

    def forward(self, x: Tensor, rope: Tensor | None = None) -> Tensor:
        """`rope` is what timm's EVA towers give their blocks: sines and cosines (L - prefix, 2 x head width) or broadcast to it."""
        normed = self.ln_1(x)
        attended = self.attend(normed) if rope is None else self.attend(normed, rope)
        x = x + torch.tanh(self.alpha_attn) * self.ls_1(attended)
        return x + torch.tanh(self.alpha_dense) * self.ls_2(self.mlp(self.ln_2(x)))

    def attend(self, x: Tensor, rope: Tensor | None = None) -> Tensor:
        """Multi-head self-attention without a mask."""
        attn = self.attn
        if not attn.batch_first:
            x = x.transpose(0, 1)
        queries, keys, values = (
            part.unflatten(-1, (attn.num_heads, attn.head_dim)).transpose(1, 2)  # (N, heads, L, D / heads)
            for part in F.linear(x, attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=-1)
        )
        if rope is not None:
            queries, keys = (attn.rotated(part, rope).type_as(values) for part in (queries, keys))
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        out = attn.out_proj(mixed.transpose(1, 2).flatten(2))  # (N, L, D)
        return out if attn.batch_first else out.transpose(0, 1)


class RotaryAttention(nn.MultiheadAttention):
    """The weights of a gate whose host rotates queries and keys, and the host's way of doing it."""

    def __init__(self, width: int, heads: int, *, prefix: int, half: bool, **made):
        super().__init__(width, heads, batch_first=True, **made)
        self.prefix, self.half = prefix, half

    def rotated(self, x: Tensor, rope: Tensor) -> Tensor:
        """Queries or keys (N, heads, L, head width), turned by their place; class and register tokens have none."""
        turned = timm.layers.apply_rot_embed_cat(x[:, :, self.prefix :], rope, half=self.half)
        return torch.cat([x[:, :, : self.prefix], turned], dim=2)


def attention(host: nn.Module, width: int, made: dict) -> nn.MultiheadAttention:
    """Fresh self-attention of the host's width and heads; ReactvlError where rotary positions need another head width."""
    if not hasattr(host, "rotate_half"):
        batch_first = getattr(host, "batch_first", True)  # only open_clip's standard block can have it otherwise
        return nn.MultiheadAttention(width, host.num_heads, batch_first=batch_first, **made)
    if host.head_dim * host.num_heads != width:
        raise ReactvlError(
            f"the image tower has {host.num_heads} heads of {host.head_dim} in {width}: its rotary positions do not fit a gate"
        )
    return RotaryAttention(width, host.num_heads, prefix=host.num_prefix_tokens, half=host.rotate_half, **made)


def first(host: nn.Module, *names: str) -> object:
    """The attribute that the host has under one of its names; None when it has none."""
    return next((found for name in names if (found := getattr(host, name, None)) is not None), None)


def like_norm(host: nn.Module) -> nn.Module:
    """A fresh norm of the host's kind, width and epsilon."""
    made = copy.deepcopy(host).requires_grad_(True)
    for name, parameter in made.named_parameters():
        (nn.init.zeros_ if name == "bias" else nn.init.ones_)(parameter)
    return made


def like_layer_scale(host: object) -> nn.Module:
    """A LayerScale where the host has one (a module or, in EVA, a parameter), else the identity.

    It starts at the mean size of the host's. In a host that is as fresh that is its configured initial value, as in the released
    code; beside a trained host the gate's branch gets the size of the host's own, where 1e-5 would hold it shut.
    """
    gamma = host if isinstance(host, nn.Parameter) else getattr(host, "gamma", None)
    if gamma is None:
        return nn.Identity()
    made = open_clip.transformer.LayerScale(len(gamma))
    made.gamma = nn.Parameter(gamma.detach().abs().mean().expand(len(gamma)).clone())
    return made
