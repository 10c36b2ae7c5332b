"""An image tower taken apart: what makes the tokens, the blocks, what makes features of the last tokens.

Two kinds are known: open_clip's VisionTransformer and timm's ViT and EVA (SigLIP, SigLIP2, PE-Core, EVA-CLIP), that is
those whose own forward pass is the one restated here. Each function works alike on a tower and on a copy of it.
"""

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from reactvl.clip_imports import open_clip, timm
from reactvl.train.products import Attention, of_one, plain


def kind_of(visual: nn.Module) -> str | None:
    """ "open_clip", "vit" or "eva"; None for a tower that is not taken apart."""
    if isinstance(visual, open_clip.transformer.VisionTransformer):
        return "open_clip" if visual.transformer.batch_first else None
    trunk = getattr(visual, "trunk", None)
    if not isinstance(visual, open_clip.timm_model.TimmModel) or getattr(trunk, "dynamic_img_size", True):
        return None
    forward = type(trunk).forward_features
    if forward is timm.models.vision_transformer.VisionTransformer.forward_features:
        return "vit" if plain_positions(trunk) else None
    if forward is timm.models.eva.Eva.forward_features and trunk.patch_drop is None:
        rotates = any(parameter.requires_grad for parameter in getattr(trunk.rope, "parameters", list)())
        return None if rotates or getattr(trunk, "rope_mixed", False) else "eva"
    return None


def plain_positions(trunk: nn.Module) -> bool:
    """Whether a timm ViT's blocks take tokens and nothing else."""
    return type(trunk).forward is timm.models.vision_transformer.VisionTransformer.forward


def blocks_of(visual: nn.Module) -> Sequence[nn.Module]:
    """The residual blocks from the bottom."""
    return visual.transformer.resblocks if hasattr(visual, "transformer") else visual.trunk.blocks


def embedding_of(visual: nn.Module) -> list[nn.Module | nn.Parameter]:
    """What makes the tokens of pixels: modules and parameters."""
    if hasattr(visual, "transformer"):
        return [visual.conv1, visual.ln_pre, visual.class_embedding, visual.positional_embedding]
    trunk = visual.trunk
    names = ("patch_embed", "cls_token", "reg_token", "pos_embed", "norm_pre")
    return [part for name in names if (part := getattr(trunk, name, None)) is not None]


def tokens(visual: nn.Module, pixels: Tensor) -> Tensor:
    """Pixels (N, 3, H, W) to the tokens (N, L, width) before block 0."""
    if hasattr(visual, "transformer"):
        return tokens_of_patches(visual, visual.conv1(pixels))
    trunk = visual.trunk
    x = trunk._pos_embed(trunk.patch_embed(pixels))
    if isinstance(x, tuple):  # EVA's, with the rotation beside
        return trunk.norm_pre(x[0])
    return trunk.norm_pre(trunk.patch_drop(x))


def tokens_of_patches(visual: nn.Module, patches: Tensor) -> Tensor:
    """Patch features (N, width, h, w) to tokens (N, 1 + h w, width), as open_clip's `_embeds` after its convolution."""
    x = patches.flatten(2).permute(0, 2, 1)
    x = torch.cat([visual.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1)
    return visual.ln_pre(visual.patch_dropout(x + visual.positional_embedding.to(x.dtype)))


def through(visual: nn.Module, x: Tensor, start: int, stop: int | None = None, *, checkpointed: str = "no") -> Tensor:
    """Tokens (N, L, width) through the blocks start..stop; the last block gives the first token alone, (N, 1, width),
    where the pooling takes no other.

    `checkpointed`: "hosts" keeps nothing inside a block but of its gate, "all" not there either; both compute it again.
    """
    blocks = blocks_of(visual)
    rotation = rotation_of(visual)
    for index in range(start, len(blocks) if stop is None else stop):
        block = blocks[index]
        if index == len(blocks) - 1 and first_suffices(visual):
            host, options = functools.partial(first_through, block), {}
        else:
            host, options = functools.partial(host_class(block).forward, block), rotation
        x = run(block, host, x, options, checkpointed)
    return x


def run(block: nn.Module, host, x: Tensor, options: dict, checkpointed: str) -> Tensor:
    """The gate, if there is one, and the host block."""
    gate = getattr(block, "gated_attn_block", None)
    if gate is not None:
        given = tuple(options.values())
        again = checkpointed == "all" and x.is_floating_point()
        x = checkpoint(gate, x, *given, use_reentrant=False) if again else gate(x, *given)
    return checkpoint(host, x, use_reentrant=False, **options) if checkpointed != "no" else host(x, **options)


def host_class(block: nn.Module) -> type[nn.Module]:
    """The block's class without its gate."""
    return type(block).__bases__[0] if hasattr(block, "gated_attn_block") else type(block)


def rotation_of(visual: nn.Module) -> dict[str, Tensor]:
    """What EVA's blocks take beside the tokens."""
    trunk = getattr(visual, "trunk", None)
    if getattr(trunk, "rope", None) is None:
        return {}
    rope = trunk.rope
    return {"rope": rope.get_embed() if hasattr(rope, "feat_shape") else rope.get_embed(trunk.patch_embed.grid_size)}


def first_suffices(visual: nn.Module) -> bool:
    """Whether the features are those of the first token alone, through a last block that can be run for it alone."""
    if not hasattr(visual, "transformer") or visual.attn_pool is not None or visual.pool_type != "tok":
        return False
    block = blocks_of(visual)[-1]
    usual = host_class(block) is open_clip.transformer.ResidualAttentionBlock and not hasattr(block, "ln_1_kv")
    attention = block.attn
    return usual and (
        (isinstance(attention, Attention) and attention.batch_first)
        or (isinstance(attention, nn.MultiheadAttention) and attention.batch_first and plain(attention))
    )


def first_through(block: nn.Module, x: Tensor) -> Tensor:
    """open_clip's residual attention block for the first of the tokens (N, L, width): (N, 1, width).

    Only keys and values are computed of all tokens.
    """
    x, normed = x[:, :1], block.ln_1(x)
    attend = block.attn.first if isinstance(block.attn, Attention) else functools.partial(first_attended, block.attn)
    x = x + block.ls_1(attend(normed))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def first_attended(attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """The attention of the first token (N, L, D) to all: (N, 1, D)."""
    width, heads = attention.embed_dim, attention.num_heads
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    query = F.linear(x[:, :1], weight[:width], None if bias is None else bias[:width])
    others = F.linear(x, weight[width:], None if bias is None else bias[width:])
    keys, values = others.unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4)
    mixed = of_one(query.unflatten(-1, (heads, -1)).transpose(1, 2), keys, values)
    return attention.out_proj(mixed)


def head(visual: nn.Module, x: Tensor) -> Tensor:
    """The last block's tokens to image features (N, dim), not normalised."""
    if hasattr(visual, "transformer"):
        pooled, _ = visual._pool(x)
        return pooled if visual.proj is None else pooled @ visual.proj.to(pooled.dtype)
    return visual.head(visual.trunk.forward_head(visual.trunk.norm(x)))
