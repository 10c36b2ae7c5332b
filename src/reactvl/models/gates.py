"""REACT's gated blocks: new residual blocks in front of the frozen ones of an open_clip image tower.

    x = x + tanh(alpha_attn)  * attn(ln_1(x))
    x = x + tanh(alpha_dense) * mlp(ln_2(x))

Both alphas start at 0, so that the gated tower starts exactly equal to the base. State-dict names are the released code's:
`visual.transformer.resblocks.{i}.gated_attn_block.{alpha_attn,alpha_dense,ln_1,attn,ln_2,mlp}...`.
Follows "Learning Customized Visual Models with Retrieval-Augmented Knowledge" (CVPR 2023, arXiv 2301.07094), section 3.
"""

import functools
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reactvl.clip_imports import open_clip
from reactvl.manifest import ReactvlError

MLP_RATIO = 4  # of the gate, also where the host's is another (bigG: host 8192 wide, gate 6656)


def insert_gates(visual: nn.Module, last_k: int) -> None:
    """Give the last `last_k` blocks of an image tower a gate each, in place.

    The gates take width, heads, activation, LayerScale and layout from their host block. Raises ReactvlError for a tower
    without residual attention blocks and for a `last_k` outside 1..layers.
    """
    blocks = residual_blocks(visual)
    if not 1 <= last_k <= len(blocks):
        raise ReactvlError(f"last_k = {last_k}: the image tower has {len(blocks)} blocks; choose 1 to {len(blocks)}")
    for block in blocks[len(blocks) - last_k :]:
        block.gated_attn_block = GatedBlock(block)
        block.__class__ = gated_class(type(block))


def residual_blocks(visual: nn.Module) -> nn.ModuleList:
    """The residual attention blocks of an open_clip ViT tower."""
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
    if blocks is None or not isinstance(blocks[0], open_clip.transformer.ResidualAttentionBlock):
        kind = type(getattr(visual, "trunk", visual)).__name__
        raise ReactvlError(
            f"the image tower ({kind}) has no residual attention blocks to gate; choose a ViT or tune locked-text"
        )
    return blocks


def gated_layers(visual: nn.Module) -> list[int]:
    """The indices of the blocks that carry a gate."""
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", [])
    return [index for index, block in enumerate(blocks) if hasattr(block, "gated_attn_block")]


def gate_openings(net: nn.Module) -> dict[str, float]:
    """|tanh(alpha)| of every gate by parameter name: 0 is shut, 1 is open."""
    return {
        name: abs(float(torch.tanh(parameter.detach().float())))
        for name, parameter in net.named_parameters()
        if name.endswith((".alpha_attn", ".alpha_dense"))
    }


@functools.cache
def gated_class(host: type[nn.Module]) -> type[nn.Module]:
    """The host block's class, its forward calling the gate first."""

    def forward(self, q_x: Tensor, k_x=None, v_x=None, attn_mask=None) -> Tensor:
        return host.forward(self, self.gated_attn_block(q_x), k_x=k_x, v_x=v_x, attn_mask=attn_mask)

    return type(f"Gated{host.__name__}", (host,), {"forward": forward})


class GatedBlock(nn.Module):
    """One gate, shaped after its host block: tokens in, tokens of the same shape out ((N, L, D) or, as the host, (L, N, D))."""

    def __init__(self, host: nn.Module):
        super().__init__()
        width, heads = host.attn.embed_dim, host.attn.num_heads
        scaled = isinstance(host.ls_1, open_clip.transformer.LayerScale)
        self.ln_1 = type(host.ln_1)(width)
        self.attn = nn.MultiheadAttention(
            width, heads, batch_first=host.attn.batch_first
        )  # owns the weights; see attend
        self.ls_1 = like_layer_scale(host.ls_1) if scaled else nn.Identity()
        self.ln_2 = type(host.ln_2)(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, MLP_RATIO * width),
                gelu=type(host.mlp.gelu)(),
                c_proj=nn.Linear(MLP_RATIO * width, width),
            )
        )
        self.ls_2 = like_layer_scale(host.ls_2) if scaled else nn.Identity()
        self.alpha_attn = nn.Parameter(torch.zeros(()))
        self.alpha_dense = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        x = x + torch.tanh(self.alpha_attn) * self.ls_1(self.attend(self.ln_1(x)))
        return x + torch.tanh(self.alpha_dense) * self.ls_2(self.mlp(self.ln_2(x)))

    def attend(self, x: Tensor) -> Tensor:
        """Multi-head self-attention without a mask."""
        attn = self.attn
        if not attn.batch_first:
            x = x.transpose(0, 1)
        queries, keys, values = (
            part.unflatten(-1, (attn.num_heads, attn.head_dim)).transpose(1, 2)  # (N, heads, L, D / heads)
            for part in F.linear(x, attn.in_proj_weight, attn.in_proj_bias).chunk(3, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        out = attn.out_proj(mixed.transpose(1, 2).flatten(2))  # (N, L, D)
        return out if attn.batch_first else out.transpose(0, 1)


def like_layer_scale(host: nn.Module) -> nn.Module:
    """A fresh LayerScale of the host's width, starting at open_clip's default."""
    return open_clip.transformer.LayerScale(host.gamma.shape[0])
