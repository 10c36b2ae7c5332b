"""Whether customization earned its place: each customized model against every label-free baseline."""

from collections.abc import Sequence
from typing import Any

from reactvl.evaluate.columns import BASELINES, ZERO_SHOT, Column
from reactvl.evaluate.results import Scored, gain_of


def verdicts(scored: Sequence[Scored], columns: Sequence[Column], customized: Sequence[str]) -> list[dict[str, Any]]:
    """Of every model in `customized` (labels) its difference to each label-free baseline, in the mean over tasks.

    A baseline is beaten where the interval of the difference lies above 0. A baseline that a task lacks, or of which no
    interval can be said, stands with None and counts as not compared.
    """
    base = next(column for column in columns if column.method == ZERO_SHOT)
    free = [base, *(column for column in columns if column.method in BASELINES)]
    made = []
    for column in columns:
        if column.label not in customized or column.method != ZERO_SHOT or column.label == base.label:
            continue
        against = [compared(scored, column, one) for one in free]
        told = [one for one in against if one["beaten"] is not None]
        made.append(
            {
                "model": column.label,
                "against": against,
                "beats_all": bool(told) and all(one["beaten"] for one in told),
            }
        )
    return made


def compared(scored: Sequence[Scored], column: Column, baseline: Column) -> dict[str, Any]:
    gain = gain_of(scored, column, baseline.label) if scored else None
    low = None if gain is None else gain["low"]
    return {"label": baseline.label, "difference": gain, "beaten": None if low is None else low > 0}
