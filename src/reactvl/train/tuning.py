"""What is tuned: a list of (regular expression, group) pairs, the first match decides; no match means frozen.

One mechanism serves every mode. A preset's line reads aloud: "the alphas, at a rate of their own, without decay".
"""

import dataclasses
import re
from typing import Literal

from torch import nn

from reactvl.manifest import ReactvlError

Tune = Literal["gated-image", "locked-text", "full"]

PRESETS: dict[str, list[tuple[str, str | None]]] = {
    "gated-image": [
        (r"visual\..*\.gated_attn_block\.alpha_(attn|dense)", "alpha"),
        (r"visual\..*\.gated_attn_block\..*", "base"),
        (r"logit_scale", "base"),
    ],
    "locked-text": [
        (r"visual\..*\.alpha_(attn|dense)", "alpha"),
        (r"visual\..*", "base"),
        (r"logit_scale", "base"),
    ],
    "full": [(r".*\.alpha_(attn|dense)", "alpha"), (r".*", "base")],
}
LEARNING_RATES = {"gated-image": 5e-4, "locked-text": 5e-5, "full": 5e-4}  # the released recipe's, at a batch of 4096


@dataclasses.dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate and a weight decay."""

    names: list[str]
    lr: float
    weight_decay: float


def choose(
    net: nn.Module, tune: str, *, lr: float, alpha_lr: float, weight_decay: float, freeze: list[str]
) -> list[Group]:
    """Mark the trained parameters of `net` (requires_grad) and return them in groups.

    Weight decay falls on matrices alone: no bias, norm, `logit_scale` or alpha, nor anything of fewer than two dimensions.
    Raises ReactvlError for a `freeze` expression that matches nothing, and when nothing is left to train.
    """
    rules: list[tuple[str, str | None]] = [*((expression, None) for expression in freeze), *PRESETS[tune]]
    names = [name for name, _ in net.named_parameters()]
    for expression in freeze:
        if not any(compiled(expression).fullmatch(name) for name in names):
            raise ReactvlError(f"freeze {expression!r}: matches no parameter of the model (the first is {names[0]})")
    groups: dict[tuple[float, float], list[str]] = {}
    for name, parameter in net.named_parameters():
        kind = next((kind for expression, kind in rules if compiled(expression).fullmatch(name)), None)
        parameter.requires_grad_(kind is not None)
        if kind is not None:
            decays = kind == "base" and parameter.ndim >= 2
            groups.setdefault((alpha_lr if kind == "alpha" else lr, weight_decay if decays else 0.0), []).append(name)
    if not groups:
        raise ReactvlError(f"tune {tune!r} with freeze {freeze}: nothing is left to train")
    return [Group(names, rate, decay) for (rate, decay), names in groups.items()]


def compiled(expression: str) -> re.Pattern[str]:
    try:
        return re.compile(expression)
    except re.error as fault:
        raise ReactvlError(f"freeze {expression!r}: not a regular expression ({fault})") from None


def trained_count(net: nn.Module) -> int:
    """The number of trained scalars."""
    return sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
