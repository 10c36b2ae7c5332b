"""Splits an image tower at the deepest point below which nothing is trained: the lower part runs without autograd.

Points of a ViT, from the bottom: the pixels; the features of a convolutional stem, if it has one; the tokens before block
b; the features. With gates in the last k blocks all below the first gate is lower; with a frozen stem the stem is. What
is frozen above that point needs the gradient of its input alone. On a CPU both parts compute from packed weights
(`models/prepacked.py`, `train/products.py`), and in the last block only what the pooling takes is computed.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reactvl.models.prepacked import can_prepack, packed
from reactvl.train import towers
from reactvl.train.products import Attention, accelerated

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Split:
    """`upper(lower(pixels))` is the tower; `at` names the point; `lower` has no trained parameter; `state` is its tensors.

    `lower` runs without autograd. `upper` sees in-place updates of trained parameters. Both are to be called under
    autocast of the precision that the split was made for, on the device that the tower was on then.
    """

    at: str
    lower: Callable[[Tensor], Tensor]
    upper: Callable[[Tensor], Tensor]
    state: dict[str, Tensor]


def split(
    visual: nn.Module,
    *,
    deepest: str = "block",
    precision: str = "fp32",
    prepack: bool = True,
    checkpointed: str = "no",
) -> Split:
    """Split by the `requires_grad` of the tower's parameters, which must not change afterwards.

    `deepest="stem"` goes no deeper than a stem's features. `prepack=False` leaves every product to the tower's own
    layers, as torch.compile wants them. `checkpointed`: "hosts" computes blocks again in the backward pass instead of
    keeping what is inside them, but for their gates; "all" the gates too.
    """
    kind = towers.kind_of(visual)
    if kind is None:
        return Split("pixels", same, visual, {})
    if not trains(visual):
        lower = lower_part(visual, precision, prepack)
        return Split("features", without_autograd(lambda x: whole(lower, x)), same, dict(visual.state_dict()))
    blocks = towers.blocks_of(visual)
    stem = getattr(getattr(visual, "conv1", None), "stem", None)
    if any(map(trains, towers.embedding_of(visual))) or (deepest == "stem" and stem is not None):
        upper = upper_part(visual, 0, precision, prepack)
        if stem is None or trains(stem):
            return Split("pixels", same, lambda pixels: rest(upper, towers.tokens(upper, pixels), 0, checkpointed), {})
        return Split(
            "stem",
            without_autograd(visual.conv1.features),
            lambda x: rest(upper, towers.tokens_of_patches(upper, upper.conv1.proj(x)), 0, checkpointed),
            stem.state_dict(),
        )
    first = next((index for index, block in enumerate(blocks) if trains(block)), len(blocks))
    lower, upper = lower_part(visual, precision, prepack, first), upper_part(visual, first, precision, prepack)
    return Split(
        f"block {first}",
        without_autograd(lambda pixels: towers.through(lower, towers.tokens(lower, pixels), 0, first)),
        lambda x: rest(upper, x, first, checkpointed),
        {name: tensor for name, tensor in visual.state_dict().items() if below(name, first)},
    )


def same(x: Tensor) -> Tensor:
    return x


def rest(visual: nn.Module, x: Tensor, first: int, checkpointed: str) -> Tensor:
    """Tokens before block `first` to features (N, dim)."""
    return towers.head(visual, towers.through(visual, x, first, checkpointed=checkpointed))


def whole(visual: nn.Module, pixels: Tensor) -> Tensor:
    """Pixels to features (N, dim)."""
    return rest(visual, towers.tokens(visual, pixels), 0, "no")


def without_autograd(part: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The part under torch.no_grad."""
    return torch.no_grad()(part)


def below(name: str, first: int) -> bool:
    """Whether a tensor of the tower's state dict is used before block `first`."""
    parts = name.removeprefix("trunk.").split(".")
    if parts[0] == "transformer":
        return int(parts[2]) < first
    if parts[0] == "blocks":
        return int(parts[1]) < first
    known = ("conv1", "class_embedding", "positional_embedding", "ln_pre")
    return parts[0] in (*known, "patch_embed", "cls_token", "reg_token", "pos_embed", "norm_pre", "rope")


def trains(part: nn.Module | nn.Parameter) -> bool:
    if isinstance(part, nn.Parameter):
        return part.requires_grad
    return any(parameter.requires_grad for parameter in part.parameters())


def lower_part(visual: nn.Module, precision: str, prepack: bool, stop: int | None = None) -> nn.Module:
    """The tower for inference up to block `stop`: packed, or on other devices with its weights in the products' dtype."""
    if not prepack:
        return visual
    made = shallow(visual)
    keep_blocks(made, 0, stop)
    if on_cpu(visual):
        return beside_stem(made, lambda part: packed(part, TYPES[precision])) if can_pack(precision) else visual
    if precision == "fp32":
        return visual
    return beside_stem(made, lambda part: accelerated(part, TYPES[precision], packed=False))


def upper_part(visual: nn.Module, first: int, precision: str, prepack: bool) -> nn.Module:
    """The tower for training from block `first` on: see `products.accelerated`."""
    here = on_cpu(visual)
    if not prepack or (not can_pack(precision) if here else precision == "fp32"):
        return visual
    made = shallow(visual)
    keep_blocks(made, first, None)
    alone = towers.first_suffices(visual)
    made = beside_stem(made, lambda part: accelerated(part, TYPES[precision], packed=here))
    attention = getattr(towers.blocks_of(made)[-1], "attn", None)
    if alone and isinstance(attention, Attention):
        attention.for_first()
    return made


def keep_blocks(visual: nn.Module, start: int, stop: int | None) -> None:
    """Put an empty block for each that this part does not run, so that the others keep their places."""
    blocks = towers.blocks_of(visual)
    for index in range(len(blocks)):
        if index < start or (stop is not None and index >= stop):
            blocks[index] = nn.Identity()


def beside_stem(visual: nn.Module, change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Change a copy of a tower, but for its convolutional stem, which is the tower's own."""
    stem = getattr(getattr(visual, "conv1", None), "stem", None)
    if stem is None:
        return change(visual)
    visual.conv1.stem = nn.Identity()
    made = change(visual)
    made.conv1.stem = stem
    return made


def shallow(visual: nn.Module) -> nn.Module:
    """A copy of the tower's modules that shares its parameters and buffers; a convolutional stem stays the same object,
    since its memory format may still be changed."""
    kept = [*visual.parameters(), *visual.buffers()]
    if hasattr(stem := getattr(visual, "conv1", None), "stem"):
        kept.append(stem.stem)
    return copy.deepcopy(visual, {id(one): one for one in kept})


def on_cpu(visual: nn.Module) -> bool:
    return next(visual.parameters()).device.type == "cpu"


def can_pack(precision: str) -> bool:
    return precision in ("fp32", "bf16") and can_prepack(precision)


def freeze_statistics(net: nn.Module) -> None:
    """Training mode where something is trained; eval mode (no dropout, no running statistics) where nothing is."""
    net.train()
    for module in net.modules():
        if not any(parameter.requires_grad for parameter in module.parameters()):
            module.eval()
