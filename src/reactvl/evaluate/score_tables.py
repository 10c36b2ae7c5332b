"""The tables of an evaluation's report: scores side by side, verdicts, published figures, recalls of captions."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from reactvl.evaluate import published_figures
from reactvl.report import plots
from reactvl.report.page import data_table, tiles

ZERO_SHOT = "zero-shot"
TILES = 6  # large figures
SERIES = 6  # columns in one plot of gains
VERDICTS = (
    "What the first model reaches with what customization had: its own zero-shot head, all names of every class, the retrieved "
    "pictures' means, a linear head on them. A customized model is worth its training where it is above all of them."
)
CAPTIONS = "Recall in percent: the share of images of which one of their captions is among the first k, and of captions whose image is."


def scores(results: dict[str, Any]) -> Markup:
    """A table a section (zero-shot with the label-free baselines; each probe), with the mean under it."""
    parts = [headline(results)]
    sections = list(dict.fromkeys(column["section"] for column in results["columns"]))
    for section in sections:
        columns = [column for column in results["columns"] if column["section"] == section]
        if len(sections) > 1:
            parts.append(Markup("<h3>{}</h3>").format(section.capitalize()))
        parts.append(table(results, columns))
    return Markup("").join(parts)


def headline(results: dict[str, Any]) -> Markup:
    """The means of the models by themselves, large."""
    facts = [
        (head(column), f"{100 * results['mean'][column['label']]['value']:.1f}")
        for column in results["columns"]
        if column["method"] == ZERO_SHOT and results["mean"][column["label"]]["value"] is not None
    ]
    return tiles(facts) if 0 < len(facts) <= TILES else Markup("")


def table(results: dict[str, Any], columns: Sequence[dict[str, Any]]) -> Markup:
    labels = [column["label"] for column in columns]
    every = [(task["name"], task["scores"]) for task in results["tasks"]]
    feet = means(results) if len(every) > 1 else []
    every += feet
    rows = [(name, [percent(found.get(label)) for label in labels]) for name, found in every]
    notes = {
        (row, at): under(found[label])
        for row, (_, found) in enumerate(every)
        for at, label in enumerate(labels)
        if label in found and under(found[label])
    }
    return plots.score_table(rows, [head(column) for column in columns], notes, foot=len(feet))


def means(results: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The mean over all tasks, and that over ELEVATER's where other tasks stand beside them."""
    found = [(results["mean_name"], results["mean"])]
    if part := results.get("elevater"):
        which = "20" if part["tasks"] == 20 else f"{part['tasks']} of its 20"
        found.append((f"mean of ELEVATER's {which}", part["mean"]))
    return found


def head(column: dict[str, Any]) -> str:
    """A column's heading; the others of its section are held against the base."""
    return column["label"] if column["against"] else f"{column['label']} (base)"


def percent(score: dict[str, Any] | None) -> float | None:
    return None if score is None or score["value"] is None else 100 * score["value"]


def under(score: dict[str, Any]) -> str:
    """The small lines under a score: its gain with the interval and p, or of a base its own interval; its seeds' spread."""
    gain, seeds, own = score.get("gain"), score.get("seeds") or [], score.get("interval")
    said = [gain_text(gain)] if gain else [f"[{100 * own['low']:.1f}, {100 * own['high']:.1f}]"] if own else []
    if gain and gain.get("p") is not None:
        said.append(f"p {shown(gain['p'])}")
    if len(seeds) > 1 and None not in seeds:
        said.append(f"seeds {100 * min(seeds):.1f} to {100 * max(seeds):.1f}")
    return "\n".join(said)


def shown(p: float) -> str:
    """`< 0.001`, `= 0.02`"""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.1 else f"= {p:.2f}"


def gain_text(gain: dict[str, float | None]) -> str:
    """`+29.2 [25.1, 33.4]`"""
    bounds = "" if gain["low"] is None else f" [{100 * gain['low']:.1f}, {100 * gain['high']:.1f}]"
    return f"{100 * gain['difference']:+.1f}{bounds}"


def intro(results: dict[str, Any]) -> str:
    metrics = sorted({task["metric"] for task in results["tasks"]})
    note = f"{', '.join(metrics)}; percent."
    if any(column["against"] for column in results["columns"]):
        level = f"{100 * results['level']:.0f}%"
        note += f" Small: the gain over the base on the same images, with its {level} paired bootstrap interval and the p of a paired"
        note += " permutation test."
    return note[0].upper() + note[1:]


def gains(results: dict[str, Any]) -> Markup:
    """Gains over the base as dots with their intervals, of the zero-shot section's first columns."""
    columns = [column for column in results["columns"] if column["section"] == ZERO_SHOT and column["against"]][:SERIES]
    every = [(task["name"], task["scores"]) for task in results["tasks"]]
    every += means(results) if len(every) > 1 else []
    series = {
        column["label"]: [points(found.get(column["label"], {}).get("gain")) for _, found in every]
        for column in columns
    }
    if not any(value for values in series.values() for value in values):
        return Markup("")
    return plots.gains_with_intervals([name for name, _ in every], series)


def points(gain: dict[str, float | None] | None) -> tuple[float, float, float] | None:
    """(low, high, difference) in points; without an interval the dot alone."""
    if gain is None:
        return None
    difference = 100 * gain["difference"]
    if gain["low"] is None:
        return difference, difference, difference
    return 100 * gain["low"], 100 * gain["high"], difference


def verdicts(results: dict[str, Any]) -> Markup:
    """Each customized model against each label-free baseline; those that do not beat all of them are said so first."""
    given = results.get("verdicts") or []
    if not given:
        return Markup("")
    free = list(dict.fromkeys(one["label"] for verdict in given for one in verdict["against"]))
    said, rows = [], []
    for verdict in given:
        against = {one["label"]: one for one in verdict["against"]}
        missed = [label for label in free if against.get(label, {}).get("beaten") is False]
        beaten = [label for label in free if against.get(label, {}).get("beaten")]
        if beaten == free:
            said.append(Markup("<p>{} beats every label-free baseline.</p>").format(verdict["model"]))
        elif missed:
            text = '<p class="warn">{} does not beat {}: the pairs alone, without customization, may serve as well.</p>'
            said.append(Markup(text).format(verdict["model"], ", ".join(missed)))
        elif beaten:
            text = "<p>{} beats {}; the other baselines cover only some of the tasks, or have no interval.</p>"
            said.append(Markup(text).format(verdict["model"], ", ".join(beaten)))
        else:
            text = '<p class="warn">{} could not be held against the baselines: there is no interval of the difference.</p>'
            said.append(Markup(text).format(verdict["model"]))
        cells = [against.get(label, {}).get("difference") for label in free]
        rows.append([verdict["model"], *("not compared" if cell is None else gain_text(cell) for cell in cells)])
    heads = ["difference in the mean to", *free]
    if facts := results.get("baselines"):
        text = "<p><small>The baselines are of {}, with {} retrieved pairs of which {} could be read.</small></p>"
        pairs = (f"{facts[key]:,}" for key in ("pairs", "usable_pairs"))
        said.append(Markup(text).format(facts["model"], *pairs))
    return Markup("").join(said) + data_table(heads, rows, right=range(1, len(heads)))


def published(results: dict[str, Any]) -> Markup:
    """What was published of a model beside what it has here, wherever this evaluation has the same task."""
    rows = []
    for label, figure, here in published_figures.beside(results):
        what = "mean of ELEVATER's 20" if figure.task == published_figures.ELEVATER else figure.task
        rows.append(
            [
                label,
                what,
                f"{'~' if figure.eye else ''}{figure.value:.1f}",
                "" if here is None else f"{here:.1f}",
                "" if here is None else f"{here - figure.value:+.1f}",
            ]
        )
    return data_table(["model", "on", "published", "here", "difference"], rows) if rows else Markup("")


def captions(results: dict[str, Any]) -> Markup:
    """Recall at k, both ways, a row a task and way, columns by model and k."""
    labels = list(dict.fromkeys(label for task in results["captions"] for label in task["scores"]))
    ks = list(
        dict.fromkeys(
            k for task in results["captions"] for score in task["scores"].values() for at in score.values() for k in at
        )
    )
    rows = []
    for task in results["captions"]:
        for way, name in (("image_to_text", "image to text"), ("text_to_image", "text to image")):
            cells = [task["scores"].get(label, {}).get(way, {}).get(k) for label in labels for k in ks]
            rows.append([task["name"], name, *("" if cell is None else f"{100 * cell:.1f}" for cell in cells)])
    heads = ["task", "", *(f"{label}, R@{k}" for label in labels for k in ks)]
    sizes = [(task["name"], task["images"], task["texts"]) for task in results["captions"]]
    return data_table(heads, rows, right=range(2, len(heads))) + data_table(["task", "images", "captions"], sizes)
