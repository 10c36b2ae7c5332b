"""The handle on an evaluation folder."""

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
        """`results.json`: models, tasks with their scores (fractions), means, intervals."""
        return json.loads((self.folder / RESULTS).read_text(encoding="utf-8"))

    def table(self) -> str:
        """Scores in percent as plain text: a row a task and their mean, a column a model, gains with their 95%
        intervals."""
        return text_table(self.results)

    def predictions(self, task: str) -> "pa.Table":
        """One row an image and model: image, label, class, model, predicted, predicted_class, top5, probability,
        correct."""
        import pyarrow.parquet as pq

        path = self.folder / PREDICTIONS / f"{task}.parquet"
        if not path.is_file():
            known = ", ".join(task["name"] for task in self.results["tasks"])
            raise ReactvlError(f"{self.folder}: has no task {task}; it has {known}")
        return pq.read_table(path)

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.folder / REPORT

    def __repr__(self) -> str:
        return f"Scores({str(self.folder)!r}: {len(self.results['models'])} models, {len(self.results['tasks'])} tasks)"


def text_table(results: dict[str, Any]) -> str:
    """The table of a results dict as aligned text."""
    labels = [model["label"] for model in results["models"]]
    rows = [(task["name"], task["scores"]) for task in results["tasks"]]
    if len(rows) > 1:
        rows.append(("mean", results["mean"]))
    cells = [["", *(column(label, number) for number, label in enumerate(labels))]]
    cells += [[name, *(cell(scores[label]) for label in labels)] for name, scores in rows]
    widths = [max(len(row[at]) for row in cells) for at in range(len(cells[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([lines[0], rule, *lines[1:-1], *([rule] if len(rows) > 1 else []), lines[-1]])


def column(label: str, number: int) -> str:
    """A model's heading; gains are over the first."""
    return label if number else f"{label} (base)"


def cell(score: dict[str, Any]) -> str:
    """`61.7  +29.2 [25.1, 33.4]`"""
    value, gained = f"{100 * score['value']:5.1f}", gain_text(score.get("gain"))
    return f"{value}  {gained}" if gained else value


def gain_text(gain: dict[str, float] | None) -> str:
    """A gain in points with its interval: `+29.2 [25.1, 33.4]`; nothing for the base."""
    if gain is None:
        return ""
    bounds = f" [{100 * gain['low']:.1f}, {100 * gain['high']:.1f}]" if gain["low"] is not None else ""
    return f"{100 * gain['difference']:+.1f}{bounds}"
