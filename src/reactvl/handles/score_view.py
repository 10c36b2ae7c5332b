"""An evaluation as a notebook shows it: its tables, and the pictures of which two models differ."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from reactvl.handles.showing import Gallery, Item, Shelf
from reactvl.manifest import ReactvlError, input_path

if TYPE_CHECKING:
    from markupsafe import Markup

    from reactvl.handles.scores import Scores
    from reactvl.tasks import Samples


class ScoreView:
    """The tables of an evaluation: HTML in a notebook, text elsewhere."""

    def __init__(self, scores: "Scores"):
        self.scores = scores

    def _repr_html_(self) -> str:
        from markupsafe import Markup

        from reactvl.handles.scores import caption_table, sections, verdict_lines
        from reactvl.report.inset import inset
        from reactvl.report.page import code

        results, parts = self.scores.results, []
        for name, columns in sections(results):
            if parts:
                parts.append(Markup("<h3>{}</h3>").format(name.capitalize()))
            parts.append(table(results, columns))
        if results["captions"]:
            parts.append(code("\n".join(caption_table(results))))
        parts += [Markup("<p>{}</p>").format(line) for line in verdict_lines(results["verdicts"])]
        small = "percent; small: the gain over the base with its 95% interval. The whole report: {}"
        parts.append(Markup("<p><small>" + small + "</small></p>").format(self.scores.report))
        return inset(Markup("").join(parts))

    def __repr__(self) -> str:
        return f"{self.scores.table()}\nthe whole report: {self.scores.report}"


def table(results: dict[str, Any], columns: Sequence[dict[str, Any]]) -> "Markup":
    """Tasks by columns, gains as small lines, the means under a rule."""
    from reactvl.handles.scores import gain_text, heading, task_rows
    from reactvl.report.plots import score_table

    rows, foot = task_rows(results)
    labels = [one["label"] for one in columns]
    notes, cells = {}, []
    for number, (name, scores) in enumerate([*rows, *foot]):
        found = [scores.get(label) or {"value": None} for label in labels]
        cells.append((name, [None if one["value"] is None else 100 * one["value"] for one in found]))
        notes |= {(number, at): gain_text(one["gain"]) for at, one in enumerate(found) if one.get("gain")}
    return score_table(cells, [heading(one, at) for at, one in enumerate(columns)], notes, foot=len(foot))


def compared(scores: "Scores", task: str, before: str | None, after: str | None, n: int) -> Gallery:
    """Pictures of a task that only one of two models names rightly, those that `after` is surest of first."""
    known = [model["label"] for model in scores.results["models"]]
    before = before or known[0]
    after = after or best(scores.results, known)
    for label in (before, after):
        if label not in known:
            raise ReactvlError(f"{scores.folder}: has no model {label!r}; it has {', '.join(known)}")
    if before == after:
        raise ReactvlError(f"{scores.folder}: comparing {before} with itself; evaluate two models together")
    answers: dict[str, list[dict]] = {before: [], after: []}
    for row in scores.predictions(task).to_pylist():
        if row["model"] in answers:
            answers[row["model"]].append(row)
    pairs = list(zip(answers[before], answers[after], strict=True))
    read = pictures_of(scores, task)
    shelves = []
    for right in (True, False):
        differ = [(old, new) for old, new in pairs if new["correct"] is right and old["correct"] is not right]
        differ.sort(key=lambda pair: -pair[1]["probability"])
        items = [item(old, new, before, after, read(old["image"])) for old, new in differ[:n]]
        words = f"right by {after}, not by {before}" if right else f"right by {before}, not by {after}"
        shelves.append(Shelf(f"{len(differ):,} {words}", items, len(differ) - len(items)))
    both = sum(old["correct"] and new["correct"] for old, new in pairs)
    title = f"{task}: {len(pairs):,} images, {both:,} named rightly by both"
    return Gallery(title, shelves, "" if read("") is not None else f"the pictures of {task} are not where they were")


def best(results: dict[str, Any], labels: Sequence[str]) -> str:
    """The model of the highest mean but for the first, the last of equals."""
    others = list(labels[1:]) or list(labels)
    means = {label: results["mean"].get(label, {}).get("value") for label in others}
    return max(reversed(others), key=lambda label: -1.0 if means[label] is None else means[label])


def item(old: dict, new: dict, before: str, after: str, read: Callable[[], bytes] | None) -> Item:
    truth = old["class"] if "class" in old else ", ".join(old["classes"])
    said = (
        f"{label}: {row['predicted_class']} {row['probability']:.0%}" for label, row in ((before, old), (after, new))
    )
    return Item(truth, "\n".join(said), read=read)


def pictures_of(scores: "Scores", task: str) -> Callable[[str], Callable[[], bytes] | None]:
    """From the name of an image in the predictions to what reads it; None for all where the task is no longer there."""
    from reactvl.tasks.finding import read as read_task

    place = input_path(scores.folder, scores.manifest, f"task {task}")
    try:
        found = read_task(place, None)
        samples = found.samples(scores.manifest.options["split"]) if found is not None else None
    except (ReactvlError, OSError):
        samples = None
    if samples is None:
        return lambda name: None
    places = dict(numbered(samples))
    return lambda name: lambda: samples.read(places[name])


def numbered(samples: "Samples") -> Iterator[tuple[str, int]]:
    return ((name, number) for number, name in enumerate(samples.names))
