"""The columns of an evaluation's table: which classifier of which model, and which other it is held against."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

Method = Literal["zero-shot", "synonyms", "retrieved means", "retrieved linear", "linear-probe", "finetune"]

ZERO_SHOT: Method = "zero-shot"
BASELINES: tuple[Method, ...] = ("synonyms", "retrieved means", "retrieved linear")
PROBES: dict[str, Method] = {"linear": "linear-probe", "finetune": "finetune"}


@dataclasses.dataclass(frozen=True)
class Column:
    """One classifier of every task, made of `model` (a label) by `method`.

    `shots` are the training images a class of a probe, "5" or "all"; `seeds` those of its draws, whose scores are
    averaged. `against` is the label of the column that the gain is over; None for the one that others are held against.
    `section` is what stands together in a table: zero-shot and the label-free baselines; each probe for itself.
    """

    label: str
    model: str
    method: Method = ZERO_SHOT
    shots: str | None = None
    seeds: tuple[int, ...] = (0,)
    against: str | None = None

    @property
    def section(self) -> str:
        return ZERO_SHOT if self.shots is None else probe_name(self.method, self.shots)


def probe_name(method: Method, shots: str) -> str:
    """`linear-probe, 5 shots`"""
    return f"{method}, {'all images' if shots == 'all' else f'{shots} shots'}"


def columns(
    labels: Sequence[str],
    *,
    shared: Sequence[str],
    baselines: Sequence[Method],
    probes: Sequence[str],
    shots: Sequence[str],
    seeds: Sequence[int],
) -> list[Column]:
    """Zero-shot: the base, which is the first of the models `labels`, its `baselines`, the other models; then the probes of
    the models `shared`, every number of shots for itself."""
    base, *others = labels
    found = [Column(base, base)]
    for method in baselines:
        label = method if method not in labels else f"{method} of {base}"
        found.append(Column(label, base, method, against=base))
    found += [Column(label, label, against=base) for label in others]
    for probe in probes:
        for count in shots:
            name = probe_name(PROBES[probe], count)
            first = f"{shared[0]}: {name}"
            for label in shared:
                own = f"{label}: {name}"
                against = None if own == first else first
                found.append(Column(own, label, PROBES[probe], count, tuple(seeds), against))
    return found
