"""A convolutional stem in place of a ViT's patch embedding, in the manner of timm's hybrid ViTs.

The tower stays open_clip's VisionTransformer, with its blocks, gates and names; only `visual.conv1` becomes a pre-trained
EfficientNet-Lite0 (features of stride 32) and a projection of patches of its features to the transformer's width.
"""

import re

import torch
from torch import Tensor, nn

from reactvl.clip_imports import timm
from reactvl.manifest import ReactvlError
from reactvl.models.packages import resolve

STRIDE = 32  # pixels a side of one feature of the stem


class HybridEmbed(nn.Module):
    """Pixels (N, 3, H, W) to patch features (N, width, h, w), the transformer's grid: each patch is `merge` x `merge` of the
    stem's features."""

    def __init__(self, architecture: str, width: int, merge: int):
        super().__init__()
        self.stem = timm.create_model(architecture, features_only=True, out_indices=(-1,), pretrained=False)
        self.proj = nn.Conv2d(self.stem.feature_info.channels()[-1], width, kernel_size=merge, stride=merge, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.proj(self.features(pixels))

    def features(self, pixels: Tensor) -> Tensor:
        """The stem's output (N, channels, H / 32, W / 32), before the projection."""
        return self.stem(pixels)[0]


def insert_stem(visual: nn.Module, architecture: str, weights: str | None) -> None:
    """Replace the patch embedding of an open_clip VisionTransformer, in place; `weights` is a file or `package:...`.

    Raises ReactvlError when the stem's features do not divide into the tower's grid.
    """
    grid, side = visual.grid_size[0], -(-visual.image_size[0] // STRIDE)
    if side % grid:
        raise ReactvlError(
            f"stem {architecture}: its {side} x {side} features do not divide into a grid of {grid} x {grid}"
        )
    embed = HybridEmbed(architecture, visual.conv1.out_channels, side // grid)
    if weights:
        embed.stem.load_state_dict(stem_weights(resolve(weights), embed.stem))
    visual.conv1 = embed


def stem_weights(path: str, stem: nn.Module) -> dict[str, Tensor]:
    """The file's weights under timm's names; ReactvlError when a tensor is missing or of another shape.

    EfficientNet-Lite0's published file uses the names of the reference port (`_blocks.3._depthwise_conv.weight`).
    """
    given = torch.load(path, map_location="cpu", weights_only=True)
    wanted = stem.state_dict()
    if any(name.startswith("_blocks.") for name in given):
        given = {timm_name(name, stem): tensor for name, tensor in given.items()}
    lacking = [name for name, tensor in wanted.items() if name not in given or given[name].shape != tensor.shape]
    if lacking:
        raise ReactvlError(f"{path}: does not fit the stem ({len(lacking)} tensors missing, the first {lacking[0]})")
    return {name: given[name] for name in wanted}


def timm_name(name: str, stem: nn.Module) -> str:
    """`_blocks.3._expand_conv.weight` is timm's `blocks.2.0.conv_pw.weight`: blocks are counted through in one, by stage in the other."""
    top = {"_conv_stem": "conv_stem", "_bn0": "bn1"}
    block = re.fullmatch(r"_blocks\.(\d+)\._(\w+?)\.(\w+)", name)
    if not block:
        first, _, rest = name.partition(".")
        return f"{top.get(first, first)}.{rest}"
    places = [(stage, index) for stage, blocks in enumerate(stem.blocks) for index in range(len(blocks))]
    stage, index = places[int(block[1])]
    expands = hasattr(stem.blocks[stage][index], "conv_pwl")  # the first block has no expansion
    parts = (
        {
            "expand_conv": "conv_pw",
            "bn0": "bn1",
            "depthwise_conv": "conv_dw",
            "bn1": "bn2",
            "project_conv": "conv_pwl",
            "bn2": "bn3",
        }
        if expands
        else {"depthwise_conv": "conv_dw", "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}
    )
    return f"blocks.{stage}.{index}.{parts[block[2]]}.{block[3]}"
