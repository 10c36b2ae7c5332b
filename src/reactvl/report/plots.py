"""The plots that reports share, each a Markup block made of plain numbers; drawn in the page's colours."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from reactvl.report.page import data_table, gallery, note
from reactvl.report.svg import BAD, GOOD, LINE, SERIES, SOFT, canvas, figure

POINTS = 400  # of a curve: more than a screen shows
CLIPPED = 34  # letters of a label beside an axis


def score_table(
    rows: Sequence[tuple[str, Sequence[float | None]]],
    models: Sequence[str],
    notes: Mapping[tuple[int, int], str] | None = None,
    *,
    header: str = "task",
    foot: int = 1,
) -> Markup:
    """Scores (percent) per row and model, the best of each row in bold; `notes` are small lines under cells (row,
    model).

    The last `foot` rows are set off (the mean over tasks). A score of None is an empty cell.
    """
    notes = notes or {}
    cells, bold = [], set()
    for number, (name, scores) in enumerate(rows):
        known = [score for score in scores if score is not None]
        row: list[Any] = [name]
        for column, score in enumerate(scores):
            text = "" if score is None else f"{score:.1f}"
            best = score is not None and len(known) > 1 and f"{max(known):.1f}" == text
            row.append(
                Markup("<b>{}</b>{}" if best else "{}{}").format(
                    text, note(notes[number, column]) if (number, column) in notes else ""
                )
            )
        cells.append(row)
    return data_table([header, *models], cells, bold=bold, foot=foot, right=range(1, len(models) + 1))


def learning_curves(
    runs: Mapping[str, Sequence[Mapping[str, float]]],
    columns: Sequence[str] = ("loss", "accuracy", "lr", "widest_gate"),
) -> Markup:
    """Curves over steps, one panel a column of `metrics.jsonl`, two in a row, one line a run; a column that no run has
    is left out.

    What a batch measures (loss, accuracy) is smoothed over 2% of the steps on either side.
    """
    shown = [column for column in columns if any(is_number(row.get(column)) for rows in runs.values() for row in rows)]
    if not shown:
        return Markup("")
    deep = -(-len(shown) // 2)
    with canvas(8.4, 2.5 * deep, columns=min(len(shown), 2), rows=deep, squeeze=False) as (drawn, axes):
        panels = list(axes.flat)
        for axis in panels[len(shown) :]:
            axis.set_axis_off()
        for axis, column in zip(panels, shown, strict=False):
            for number, (label, rows) in enumerate(runs.items()):
                points = [(row["step"], row[column]) for row in rows if "step" in row and is_number(row.get(column))]
                if not points:
                    continue
                steps, values = np.array(points, np.float64).T
                if column in ("loss", "accuracy"):
                    values = smoothed(values, len(values) // 50)
                stride = max(len(steps) // POINTS, 1)
                axis.plot(steps[::stride], values[::stride], color=colour(number + 1), label=label)
            axis.set_title(column.replace("_", " "))
            axis.set_xlabel("step")
        drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return figure(drawn, f"{', '.join(shown)} over steps of {', '.join(runs)}")


def class_gains(names: Sequence[str], gains: Sequence[float], *, most: int = 24, title: str = "") -> Markup:
    """Horizontal bars of each class's gain in points, sorted; of many classes the best and the worst, `most` in all."""
    order = [index for index in np.argsort(gains, kind="stable")[::-1] if math.isfinite(gains[index])]
    if len(order) > most:
        order = [*order[: most * 2 // 3], None, *order[-(most - most * 2 // 3) :]]
    labels = ["..." if index is None else clipped(names[index]) for index in order]
    values = [0.0 if index is None else float(gains[index]) for index in order]
    with canvas(7.2, 0.6 + 0.21 * max(len(order), 2)) as (drawn, axis):
        axis.barh(range(len(order)), values, color=[GOOD if value > 0 else BAD for value in values], height=0.7)
        axis.set_yticks(range(len(order)), labels)
        axis.invert_yaxis()
        axis.axvline(0, color=SOFT, linewidth=0.8)
        axis.grid(axis="x")
        axis.grid(visible=False, axis="y")
        axis.tick_params(length=0)
        axis.set_title(title)
        for place, (index, value) in enumerate(zip(order, values, strict=True)):
            if index is not None:
                side = "left" if value >= 0 else "right"
                axis.annotate(
                    f"{value:+.0f}",
                    (value, place),
                    (3 if value >= 0 else -3, 0),
                    textcoords="offset points",
                    ha=side,
                    va="center",
                    fontsize=8,
                    color=SOFT,
                )
        axis.margins(x=0.08, y=0.02)
    return figure(drawn, f"gain per class: {title}")


def gains_with_intervals(
    rows: Sequence[str], series: Mapping[str, Sequence[tuple[float, float, float] | None]]
) -> Markup:
    """A dot with its interval per row and series: (low, high, difference) in points; the line at 0 is the base."""
    with canvas(7.2, 0.8 + 0.32 * len(rows) * max(len(series), 1) ** 0.6) as (drawn, axis):
        step = 0.6 / max(len(series), 1)
        for number, (label, values) in enumerate(series.items()):
            places = [row - 0.3 + step * (number + 0.5) for row in range(len(rows))]
            known = [(place, value) for place, value in zip(places, values, strict=True) if value is not None]
            for place, (low, high, _) in known:
                axis.plot([low, high], [place, place], color=colour(number + 1), linewidth=2, solid_capstyle="round")
            axis.plot(
                [value[2] for _, value in known],
                [place for place, _ in known],
                "o",
                color=colour(number + 1),
                markersize=5,
                label=label,
            )
        axis.axvline(0, color=SOFT, linewidth=1)
        axis.set_yticks(range(len(rows)), [clipped(row) for row in rows])
        axis.invert_yaxis()
        axis.grid(axis="x")
        axis.grid(visible=False, axis="y")
        axis.tick_params(length=0)
        axis.set_xlabel("points over the first model, 95% interval")
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure(drawn, "gain over the first model per task with intervals")


def histogram(values: Mapping[str, Sequence[float]], *, xlabel: str, bins: int = 40, title: str = "") -> Markup:
    """Outlined histograms over common bins, one a label; values that are not finite are left out."""
    series = {label: np.asarray(given, np.float64) for label, given in values.items()}
    series = {label: given[np.isfinite(given)] for label, given in series.items()}
    every = np.concatenate(list(series.values())) if series else np.zeros(0)
    if not len(every):
        return Markup("")
    edges = np.histogram_bin_edges(every, bins)
    with canvas(7.2, 2.6) as (drawn, axis):
        for number, (label, given) in enumerate(series.items()):
            counts, _ = np.histogram(given, edges)
            axis.stairs(counts, edges, color=colour(number + 1), fill=len(series) == 1, label=label, linewidth=1.6)
        axis.set_xlabel(xlabel)
        axis.set_title(title)
        if len(series) > 1:
            axis.legend()
    return figure(drawn, f"histogram of {xlabel}")


def reliability_diagrams(panels: Sequence[tuple[str, Mapping[str, Mapping[str, Sequence[float | None]]]]]) -> Markup:
    """Reliability diagrams, a panel a title, one line a label: accuracy over confidence of the bins that hold images.

    A label's bins are {"confidence", "accuracy", "count"}, as long as there are bins; a dot is the larger the more of the
    label's images its bin holds.
    """
    wide = min(len(panels), 4)
    deep = -(-len(panels) // wide)
    with canvas(2.2 * wide + 0.2, 2.3 * deep, columns=wide, rows=deep, squeeze=False) as (drawn, axes):
        seen: dict[str, Any] = {}
        places = list(axes.flat)
        for axis in places[len(panels) :]:
            axis.set_axis_off()
        order = {label: number for number, label in enumerate(dict.fromkeys(one for _, bins in panels for one in bins))}
        for axis, (title, series) in zip(places, panels, strict=False):
            axis.plot([0, 1], [0, 1], color=LINE, linewidth=1)
            for label, bins in series.items():
                held = [place for place, count in enumerate(bins["count"]) if count]
                x = [bins["confidence"][place] for place in held]
                y = [bins["accuracy"][place] for place in held]
                total = sum(bins["count"])
                sizes = [4 + 60 * bins["count"][place] / total for place in held]
                (line,) = axis.plot(x, y, color=colour(order[label]), linewidth=1.2)
                axis.scatter(x, y, s=sizes, color=colour(order[label]))
                seen.setdefault(label, line)
            axis.set_title(clipped(title), fontsize=9)
            axis.set_xlim(0, 1)
            axis.set_ylim(0, 1)
            axis.set_xticks([0, 0.5, 1])
            axis.set_yticks([0, 0.5, 1])
            axis.set_aspect("equal")
        drawn.legend(seen.values(), seen.keys(), loc="outside upper left", ncols=3)
    return figure(drawn, f"accuracy over confidence, {len(panels)} panels, of {', '.join(seen)}")


def confusion_examples(rows: Sequence[tuple[str, str, str, Sequence[tuple[str, str]]]]) -> Markup:
    """Confusions with pictures: (class, taken for, how often, [(data URI, note), ...]) each."""
    parts = []
    for label, taken_for, count, pictures in rows:
        parts.append(
            Markup("<h3>{} <small>taken for</small> {} <small>{}</small></h3>").format(label, taken_for, count)
        )
        parts.append(gallery([(uri, "", text) for uri, text in pictures]) if pictures else Markup(""))
    return Markup("").join(parts)


def time_bar(seconds: Mapping[str, float], title: str = "") -> Markup:
    """Where time went: one stacked bar, parts in the order given, with a legend that gives seconds and share."""
    parts = {name: value for name, value in seconds.items() if value > 0}
    total = sum(parts.values())
    if not total:
        return Markup("")
    with canvas(7.2, 0.9 + 0.17 * len(parts)) as (drawn, axis):
        left = 0.0
        for number, (name, value) in enumerate(parts.items()):
            label = f"{name}: {value:,.1f} s, {100 * value / total:.0f}%"
            axis.barh([0], [value], left=[left], color=colour(number), height=0.5, label=label)
            left += value
        axis.set_axis_off()
        axis.set_xlim(0, total)
        axis.set_title(title)
        drawn.legend(*axis.get_legend_handles_labels(), loc="outside lower left", ncols=1)
    return figure(drawn, "where time went")


def smoothed(values: np.ndarray, width: int) -> np.ndarray:
    """Mean over a centred window of 2 x width + 1, narrower at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    low, high = np.maximum(places - width, 0), np.minimum(places + width + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def colour(number: int) -> str:
    return SERIES[number % len(SERIES)]


def clipped(text: str) -> str:
    return text if len(text) <= CLIPPED else text[: CLIPPED - 1] + "…"


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
