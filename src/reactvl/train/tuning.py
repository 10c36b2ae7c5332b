"""What is tuned: a list of (regular expression, rate) pairs, the first match decides; no match means frozen.

One mechanism serves every mode. A preset's line reads aloud: "the alphas, at a rate of their own, without decay". What a user
freezes, tunes besides or unlocks stands in front of the preset's own lines.
"""

import dataclasses
import re
from typing import Literal

from torch import nn

from reactvl.manifest import ReactvlError

Tune = Literal["gated-image", "locked-text", "locked-image", "full"]

ALPHA, BASE, FROZEN = "alpha", "base", "frozen"
ALPHAS = (r".*\.gated_attn_block\.alpha_(attn|dense)", ALPHA)
LOGITS = (r"logit_(scale|bias)", BASE)  # the bias is SigLIP's
PRESETS: dict[str, list[tuple[str, str]]] = {
    "gated-image": [ALPHAS, (r"visual\..*\.gated_attn_block\..*", BASE), LOGITS],
    "locked-text": [ALPHAS, (r"visual\..*", BASE), LOGITS],
    "locked-image": [(r"(?!visual\.).*", BASE)],  # LiT (CVPR 2022, arXiv 2111.07991)
    "full": [ALPHAS, (r".*", BASE)],
}
LEARNING_RATES = {  # the released recipe's where it has one, at a batch of 4096
    "gated-image": 5e-4,
    "locked-text": 5e-5,
    "locked-image": 5e-4,
    "full": 5e-4,
}
LOCKED = {"gated-image": "image", "locked-text": "text", "locked-image": "image"}  # the tower whose end can be unlocked
BLOCK = {  # a block's number, by tower: open_clip's names, timm's and Hugging Face's
    "image": r"visual\.(?:transformer\.resblocks|trunk\.blocks)\.(\d+)\..*",
    "text": r"(?:text\.)?transformer\.(?:resblocks|encoder\.layers?|layers?)\.(\d+)\..*",
}
ABOVE = {  # what stands behind the last block
    "image": r"visual\.(ln_post|proj|attn_pool|attn_pool_contrastive|head|trunk\.(norm|fc_norm|attn_pool|head))(\..*)?",
    "text": r"(text\.)?(ln_final|text_projection|proj)(\..*)?",
}


@dataclasses.dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate and a weight decay."""

    names: list[str]
    lr: float
    weight_decay: float


def choose(
    net: nn.Module,
    tune: str,
    *,
    lr: float,
    alpha_lr: float,
    weight_decay: float,
    freeze: list[str],
    rules: list[str] = [],  # noqa: B006
    unlock_last: int = 0,
) -> list[Group]:
    """Mark the trained parameters of `net` (requires_grad) and return them in groups.

    `freeze`: expressions that stay frozen; `rules`: `EXPRESSION=LR` or `EXPRESSION=LR:DECAY` for what has a rate of its own
    (trained also where the preset would not); `unlock_last`: the last blocks of the locked tower (of gated-image: the image
    tower), with what stands behind them, are trained too. Whole names are matched. Decay falls on matrices alone: no bias,
    norm, `logit_scale` or alpha, nor anything of fewer than two dimensions, unless a rule gives one.
    Raises ReactvlError for an expression that matches nothing, a rule without a rate, more unlocked blocks than the tower
    has, and when nothing is left to train.
    """
    lines = [*((expression, FROZEN) for expression in freeze), *map(parsed, rules)]
    lines = [(compiled(expression), rate) for expression, rate in lines]
    names = [name for name, _ in net.named_parameters()]
    for expression, _ in lines:
        if not any(expression.fullmatch(name) for name in names):
            raise ReactvlError(f"{expression.pattern!r}: matches no parameter of the model (the first is {names[0]})")
    unlocked = unlocking(names, tune, unlock_last) if unlock_last else []
    preset = [*unlocked, *PRESETS[tune]]
    lines += [(re.compile(expression), rate) for expression, rate in preset]
    groups: dict[tuple[float, float], list[str]] = {}
    for name, parameter in net.named_parameters():
        rate = next((rate for expression, rate in lines if expression.fullmatch(name)), FROZEN)
        parameter.requires_grad_(rate != FROZEN)
        if rate == FROZEN:
            continue
        if isinstance(rate, str):
            decays = rate == BASE and parameter.ndim >= 2
            rate = (alpha_lr if rate == ALPHA else lr, weight_decay if decays else 0.0)
        elif rate[1] is None:
            rate = (rate[0], weight_decay if parameter.ndim >= 2 else 0.0)
        groups.setdefault(rate, []).append(name)
    if not groups:
        raise ReactvlError(f"tune {tune!r} with freeze {freeze}: nothing is left to train")
    return [Group(names, rate, decay) for (rate, decay), names in groups.items()]


def parsed(rule: str) -> tuple[str, tuple[float, float | None]]:
    """`EXPRESSION=LR[:DECAY]`."""
    expression, equals, text = rule.rpartition("=")
    rate, colon, decay = text.partition(":")
    try:
        found = float(rate), float(decay) if colon else None
    except ValueError:
        found = None
    if not equals or not expression or found is None or found[0] < 0 or (found[1] or 0) < 0:
        raise ReactvlError(
            rf"rules {rule!r}: write EXPRESSION=LR or EXPRESSION=LR:DECAY, as in 'visual\.ln_post\..*=1e-5'"
        )
    return expression, found


def unlocking(names: list[str], tune: str, count: int) -> list[tuple[str, str]]:
    """The lines that unlock the last `count` blocks of the locked tower."""
    if tune not in LOCKED:
        raise ReactvlError(f"unlock_last = {count}: tune {tune!r} locks no tower; leave it out")
    tower = LOCKED[tune]
    numbers = [int(found[1]) for name in names if (found := re.fullmatch(BLOCK[tower], name))]
    blocks = max(numbers) + 1 if numbers else 0
    if not 1 <= count <= blocks:
        raise ReactvlError(f"unlock_last = {count}: the {tower} tower has {blocks} blocks")
    last = "|".join(str(number) for number in range(blocks - count, blocks))
    return [ALPHAS, (BLOCK[tower].replace(r"(\d+)", f"({last})"), BASE), (ABOVE[tower], BASE)]


def compiled(expression: str) -> re.Pattern[str]:
    try:
        return re.compile(expression)
    except re.error as fault:
        raise ReactvlError(f"{expression!r}: not a regular expression ({fault})") from None


def trained_count(net: nn.Module) -> int:
    """The number of trained scalars."""
    return sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
