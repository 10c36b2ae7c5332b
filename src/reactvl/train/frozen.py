"""Splits an image tower at the deepest point below which nothing is trained: the lower part runs without autograd.

Points of an open_clip ViT, from the bottom: the pixels; the features of a convolutional stem, if it has one; the tokens
before block b. With gates in the last k blocks all below the first gate is lower; with a frozen stem the stem is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reactvl.clip_imports import open_clip


@dataclass(frozen=True)
class Split:
    """`upper(lower(pixels))` is the tower; `at` names the point; `lower` has no trained parameter; `state` is its tensors."""

    at: str
    lower: Callable[[Tensor], Tensor]
    upper: Callable[[Tensor], Tensor]
    state: dict[str, Tensor]


def split(visual: nn.Module, *, deepest: str = "block") -> Split:
    """Split by the `requires_grad` of the tower's parameters. `deepest="stem"` goes no deeper than a stem's features."""
    tower = visual
    if (
        not isinstance(tower, open_clip.transformer.VisionTransformer)
        or not tower.transformer.batch_first
        or tower.attn_pool is not None
    ):
        return Split("pixels", lambda pixels: pixels, visual, {})
    stem = getattr(tower.conv1, "stem", None)
    if stem is None and deepest == "stem":
        deepest = "block"
    embedding = [tower.conv1, tower.ln_pre, tower.class_embedding, tower.positional_embedding]
    if any(trains(part) for part in embedding) or deepest == "stem":
        if stem is None or trains(stem):
            return Split("pixels", lambda pixels: pixels, visual, {})
        return Split(
            "stem",
            tower.conv1.features,
            lambda features: head(tower, blocks(tower, tokens(tower, tower.conv1.proj(features)), 0)),
            stem.state_dict(),
        )
    first = next(
        (index for index, block in enumerate(tower.transformer.resblocks) if trains(block)),
        len(tower.transformer.resblocks),
    )
    return Split(
        f"block {first}",
        lambda pixels: blocks(tower, tokens(tower, tower.conv1(pixels)), 0, first),
        lambda x: head(tower, blocks(tower, x, first)),
        {name: tensor for name, tensor in tower.state_dict().items() if below(name, first)},
    )


def below(name: str, first: int) -> bool:
    """Whether a tensor of the tower's state dict is used before block `first`."""
    parts = name.split(".")
    if parts[0] == "transformer":
        return int(parts[2]) < first
    return parts[0] in ("conv1", "class_embedding", "positional_embedding", "ln_pre")


def trains(part: nn.Module | nn.Parameter) -> bool:
    if isinstance(part, nn.Parameter):
        return part.requires_grad
    return any(parameter.requires_grad for parameter in part.parameters())


def tokens(tower: nn.Module, patches: Tensor) -> Tensor:
    """Patch features (N, width, h, w) to tokens (N, 1 + h w, width), as open_clip's `_embeds` after its convolution."""
    x = patches.flatten(2).permute(0, 2, 1)
    x = torch.cat([tower.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1)
    return tower.ln_pre(tower.patch_dropout(x + tower.positional_embedding.to(x.dtype)))


def blocks(tower: nn.Module, x: Tensor, start: int, stop: int | None = None) -> Tensor:
    """Tokens (N, L, width) through the blocks start..stop."""
    for block in tower.transformer.resblocks[start:stop]:
        x = block(x)
    return x


def head(tower: nn.Module, x: Tensor) -> Tensor:
    """Tokens to image features (N, dim), not normalised."""
    pooled, _ = tower._pool(x)
    return pooled if tower.proj is None else pooled @ tower.proj


def freeze_statistics(net: nn.Module) -> None:
    """Training mode where something is trained; eval mode (no dropout, no running statistics) where nothing is."""
    net.train()
    for module in net.modules():
        if not any(parameter.requires_grad for parameter in module.parameters()):
            module.eval()
