"""After training: how far to go from the base to the tuned model (WiSE-FT), chosen on validation data.

For gates, which the base has not, a share of the way scales tanh(alpha).
"""

from typing import Any

from reactvl.customize.validate import Judge, shown
from reactvl.models.model import Model
from reactvl.progress import say


def sweep(base: Model, tuned: Model, shares: list[float], judge: Judge) -> tuple[Model, dict[str, Any]]:
    """The model of the best share, and the table: `best`, and the figures of every share, in rising order. Of equals the
    larger share, which is nearer to what was trained."""
    from reactvl.models.interpolation import interpolated

    base.net.to(tuned.device)
    rows, champion, highest = [], tuned, None
    for share in sorted(set(shares)):
        model = interpolated(base, tuned, share)
        figures, value = judge(model)
        rows.append({"share": share, **figures})
        if judge.world.first:
            say(f"customize: interpolated {share:g}: {shown(figures)}")
        if highest is None or value >= highest[0]:
            highest, champion = (value, share), model
    return champion, {"best": highest[1], "shares": rows}
