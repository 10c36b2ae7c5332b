"""The handle on an evaluation folder."""

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reactvl.handles.score_view import ScoreView, compared
from reactvl.handles.showing import Gallery
from reactvl.manifest import Manifest, ReactvlError, missing_files, read_manifest

if TYPE_CHECKING:
    import pyarrow as pa

RESULTS, REPORT, PREDICTIONS, SKIPPED = "results.json", "report.html", "predictions", "skipped.parquet"


class Scores:
    """What `evaluate` found. Raises ReactvlError when the folder is no output of it or lacks a file."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.manifest: Manifest = read_manifest(self.folder, "evaluate")
        lost = missing_files(self.folder, self.manifest)
        if lost:
            raise ReactvlError(f"{self.folder}: lacks {lost[0]}; run `reactvl evaluate` again")

    @functools.cached_property
    def results(self) -> dict[str, Any]:
        """`results.json`: models, columns, tasks with their scores (fractions), means, intervals, image-text retrieval,
        and which customized models beat the label-free baselines."""
        found = json.loads((self.folder / RESULTS).read_text(encoding="utf-8"))
        if "columns" not in found:
            raise ReactvlError(f"{self.folder}: was made by an older version; run `reactvl evaluate --overwrite` again")
        return found

    def table(self) -> str:
        """Scores in percent as plain text: a row a task and their mean, a column a model or label-free baseline, gains
        with their 95% intervals; then probes, image-text retrieval and verdicts, where there are any."""
        return text_table(self.results)

    def show(self) -> ScoreView:
        """The same tables to look at: HTML in a notebook."""
        return ScoreView(self)

    def compare(self, task: str, before: str | None = None, after: str | None = None, n: int = 12) -> Gallery:
        """Up to `n` pictures that `after` names rightly and `before` does not, and `n` the other way round, with both answers.

        Models are given by their labels; by default the first, and the best of the others. Raises ReactvlError for a task or
        model that was not evaluated."""
        return compared(self, task, before, after, n)

    def predictions(self, task: str) -> "pa.Table":
        """One row an image and zero-shot column: image, label, class (of a multilabel task the lists `labels` and
        `classes`), model (the column's label), predicted, predicted_class, top5, probability, correct."""
        import pyarrow.parquet as pq

        path = self.folder / PREDICTIONS / f"{task}.parquet"
        if not path.is_file():
            known = ", ".join(task["name"] for task in self.results["tasks"]) or "none of classes"
            raise ReactvlError(f"{self.folder}: has no task {task}; it has {known}")
        return pq.read_table(path)

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.folder / REPORT

    def _repr_html_(self) -> str:
        return self.show()._repr_html_()

    def __repr__(self) -> str:
        return f"Scores({str(self.folder)!r}: {len(self.results['models'])} models, {len(self.results['tasks'])} tasks)"


def text_table(results: dict[str, Any]) -> str:
    """The tables of a results dict as aligned text, one a section; under them, which customized models beat the
    label-free baselines."""
    blocks = [
        ([name] if at else []) + section_table(results, shown) for at, (name, shown) in enumerate(sections(results))
    ]
    blocks += [caption_table(results)] if results["captions"] else []
    lines = verdict_lines(results["verdicts"])
    return "\n\n".join("\n".join(block) for block in [*blocks, *([lines] if lines else [])])


def sections(results: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The columns of each section: zero-shot first, then every probe."""
    found: dict[str, list[dict[str, Any]]] = {}
    for one in results["columns"] if results["tasks"] else []:
        found.setdefault(one["section"], []).append(one)
    return list(found.items())


def task_rows(results: dict[str, Any]) -> tuple[list[tuple[str, dict]], list[tuple[str, dict]]]:
    """(name, scores) of every task, and of the means under them where there are several tasks."""
    rows = [(task["name"], task["scores"]) for task in results["tasks"]]
    foot = []
    if len(rows) > 1:
        if results["elevater"]:
            foot.append((f"mean, {results['elevater']['tasks']} of ELEVATER's", results["elevater"]["mean"]))
        foot.append((results["mean_name"], results["mean"]))
    return rows, foot


def section_table(results: dict[str, Any], shown: list[dict[str, Any]]) -> list[str]:
    """The table of some columns, with their means where there are several tasks."""
    labels = [one["label"] for one in shown]
    brief = {one["label"] for one in shown if is_baseline(one)}
    rows, foot = task_rows(results)
    cells = [["", *(heading(one, number) for number, one in enumerate(shown))]]
    cells += [[name, *(cell(scores.get(label), label in brief) for label in labels)] for name, scores in [*rows, *foot]]
    return ruled(cells, len(foot))


def caption_table(results: dict[str, Any]) -> list[str]:
    """Image-text retrieval: R@1, R@5, R@10 of every task and model, in both directions."""
    labels = [model["label"] for model in results["models"]]
    cells = [["R@1, R@5, R@10", *(column(label, number) for number, label in enumerate(labels))]]
    for task in results["captions"]:
        for way, shown in (("image_to_text", "image to text"), ("text_to_image", "text to image")):
            found = [task["scores"][label][way].values() for label in labels]
            cells.append([f"{task['name']}, {shown}", *(" ".join(f"{100 * one:5.1f}" for one in at) for at in found)])
    return ruled(cells, 0)


def ruled(cells: list[list[str]], foot: int) -> list[str]:
    """Aligned columns under a heading, the last `foot` rows apart."""
    widths = [max(len(row[at]) for row in cells) for at in range(len(cells[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    body = lines[1:] if not foot else [*lines[1:-foot], rule, *lines[-foot:]]
    return [lines[0], rule, *body]


def verdict_lines(verdicts: list[dict[str, Any]]) -> list[str]:
    """One line of the models that beat all label-free baselines, and one of each that does not, with what it fails at or
    could not be held against: a baseline that some task lacks has no mean."""
    untold = {one["model"]: [at["label"] for at in one["against"] if at["beaten"] is None] for one in verdicts}
    winners = [one["model"] for one in verdicts if one["beats_all"] and not untold[one["model"]]]
    lines = [f"above every label-free baseline: {', '.join(winners)}"] if winners else []
    for one in verdicts:
        if one["model"] in winners:
            continue
        missed = [f"{at['label']} ({gain_text(at['difference'])})" for at in one["against"] if at["beaten"] is False]
        beaten = [at["label"] for at in one["against"] if at["beaten"]]
        unknown = f"not compared with {', '.join(untold[one['model']])}" if untold[one["model"]] else ""
        if missed:
            lines.append(f"{one['model']}: not above {', '.join(missed)}")
        elif beaten:
            lines.append(f"{one['model']}: above {', '.join(beaten)}; {unknown}")
        else:
            lines.append(f"{one['model']}: not held against any label-free baseline with an interval")
    return lines


def is_baseline(one: dict[str, Any]) -> bool:
    return one["method"] in ("synonyms", "retrieved means", "retrieved linear")


def heading(one: dict[str, Any], number: int) -> str:
    """A column's heading: its label, in a probe's table the model's."""
    return column(one["label"] if one["shots"] is None else one["model"], number)


def column(label: str, number: int) -> str:
    """A model's heading; gains are over the first."""
    return label if number else f"{label} (base)"


def cell(score: dict[str, Any] | None, brief: bool = False) -> str:
    """`61.7  +29.2 [25.1, 33.4]`; a baseline's gain without the interval, a dash for what does not exist."""
    if score is None or score["value"] is None:
        return "    -"
    value, gained = f"{100 * score['value']:5.1f}", score.get("gain")
    text = gain_text(gained and gained | ({"low": None} if brief else {}))
    return f"{value}  {text}" if text else value


def gain_text(gain: dict[str, float | None] | None) -> str:
    """A gain in points with its interval: `+29.2 [25.1, 33.4]`; nothing for the base."""
    if gain is None:
        return ""
    bounds = f" [{100 * gain['low']:.1f}, {100 * gain['high']:.1f}]" if gain["low"] is not None else ""
    return f"{100 * gain['difference']:+.1f}{bounds}"
