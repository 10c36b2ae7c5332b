"""From scores to results: metrics a task and column, means over tasks, gains with their intervals."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from reactvl.evaluate.columns import Column
from reactvl.heads.calibration import reliability
from reactvl.heads.intervals import (
    Interval,
    Paired,
    Per,
    Single,
    clusters_of,
    interval_of_mean,
    paired_interval_of_mean,
)
from reactvl.heads.metrics import METRICS, mean_per_class, recalls, top_k_accuracy
from reactvl.heads.permutation import paired_test
from reactvl.heads.zero_shot import Ranking, rank_scores
from reactvl.manifest import ReactvlError
from reactvl.tasks import Samples, Task, benchmarks

LEVEL = 0.95
TOP = 5
BY_PROBABILITY = ("roc_auc", "11point_mAP")  # ELEVATER's toolkit ranks images by their probabilities


@dataclasses.dataclass
class Scored:
    """A task with the answers of all columns on the images that all models could read.

    `rows` int64 (N,) are positions in `samples`; by label of the column: `rankings` of these rows (of a column of
    several seeds, the first seed's), `scores` the figures of results.json, `right` float32 (N,) whether an image's
    class is found, a mean over seeds; `odds` float32 (N, C), probabilities averaged over seeds, where the metric ranks
    images. `skipped` lists (image, reason).
    """

    task: Task
    templates: list[str]
    samples: Samples
    rows: np.ndarray
    skipped: list[tuple[str, str]]
    rankings: dict[str, Ranking] = dataclasses.field(default_factory=dict)
    scores: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    right: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    odds: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def labels(self) -> np.ndarray:
        """The labels of `rows`: int64 (N,), or bool (N, C) of a multilabel task."""
        return self.samples.labels[self.rows]

    def correct(self, label: str) -> np.ndarray:
        """Whether a column finds each image's class (of several, one of them), bool (N,)."""
        return found(self.labels, self.rankings[label].predicted)

    @property
    def per(self) -> Per:
        return "class" if self.task.metric == "mean-per-class" else "image"

    def take(
        self, column: Column, scores: Sequence[np.ndarray], odds: Sequence[np.ndarray], facts: dict[str, Any]
    ) -> None:
        """Judge a column by its scores float (N, C) of `rows`, one array a seed, and the probabilities they mean."""
        labels = self.labels
        answers = [ranked(one, probabilities) for one, probabilities in zip(scores, odds, strict=True)]
        each = [self.measured(*given) for given in zip(scores, odds, answers, strict=True)]
        self.rankings[column.label] = answers[0]
        self.scores[column.label] = averaged(each) | facts
        self.right[column.label] = np.mean([found(labels, one.predicted) for one in answers], axis=0, dtype=np.float32)
        if self.task.metric in BY_PROBABILITY:
            self.odds[column.label] = np.mean(odds, axis=0, dtype=np.float32)

    def measured(self, scores: np.ndarray, odds: np.ndarray, answer: Ranking) -> dict[str, Any]:
        """The task's metric as `value`, and the others; None where a figure does not exist."""
        labels, classes = self.labels, len(self.task.classes)
        made = {
            "value": plain(METRICS[self.task.metric](labels, odds if self.task.metric in BY_PROBABILITY else scores))
        }
        single = labels.ndim == 1
        bins = reliability(labels, odds)
        return made | {
            "top1": top_k_accuracy(labels, answer.classes, 1) if single else None,
            "top5": top_k_accuracy(labels, answer.classes, 5) if single and classes > TOP else None,
            "mean_per_class": mean_per_class(labels, answer.predicted, classes) if single else None,
            "ece": bins.error,
            "recalls": [plain(one) for one in recalls(labels, answer.predicted, classes)] if single else None,
            "reliability": {
                "confidence": [plain(one) for one in bins.confidence],
                "accuracy": [plain(one) for one in bins.accuracy],
                "count": bins.count.tolist(),
            },
        }


def ranked(scores: np.ndarray, odds: np.ndarray) -> Ranking:
    """The likeliest classes of each row: by scores, because small probabilities underflow to ties."""
    order = rank_scores(scores, TOP).classes
    return Ranking(order, np.take_along_axis(odds, order.astype(np.int64), axis=1).astype(np.float32))


def found(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    return labels == predicted if labels.ndim == 1 else labels[np.arange(len(labels)), predicted]


def averaged(each: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures averaged over seeds, the values of each beside them; the reliability bins are the first seed's."""
    if len(each) == 1:
        return each[0]
    made = {name: mean([one[name] for one in each]) for name in ("value", "top1", "top5", "mean_per_class", "ece")}
    rows = [one["recalls"] for one in each]
    made["recalls"] = None if rows[0] is None else [mean(list(column)) for column in zip(*rows, strict=True)]
    return made | {"reliability": each[0]["reliability"], "seeds": [one["value"] for one in each]}


def mean(values: Sequence[float | None]) -> float | None:
    return None if not values or None in values else float(np.mean(values))


def plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def common_rows(task: str, samples: Samples, bad: dict[int, str]) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """The rows that no model failed to read, int64, and (image, reason) of the others and of what was unusable before;
    ReactvlError when no image is left."""
    rows = np.array([row for row in range(len(samples)) if row not in bad], np.int64)
    skipped = [*samples.unusable, *((samples.names[row], bad[row]) for row in sorted(bad))]
    if not len(rows):
        name, reason = skipped[0]
        raise ReactvlError(f"task {task}: none of its {len(samples):,} images could be read ({name}: {reason})")
    return rows, skipped


def results(
    scored: Sequence[Scored],
    captions: Sequence[dict[str, Any]],
    models: Sequence[dict[str, Any]],
    columns: Sequence[Column],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """All scores as plain JSON values: fractions, None where a figure does not exist.

    `models` describe the models in order, the base first, each with its `label`; `captions` are the results of image-text
    retrieval. `mean` is over the tasks; a column that a task lacks has none.
    """
    twenty = [one for one in scored if one.task.benchmark in benchmarks.elevater()]
    return {
        **facts,
        "level": LEVEL,
        "models": list(models),
        "columns": [described(column) for column in columns],
        "tasks": [task_results(one, columns) for one in scored],
        "mean": means(scored, columns),
        "mean_name": mean_name(len(twenty), len(scored)),
        "elevater": {"tasks": len(twenty), "mean": means(twenty, columns)} if 0 < len(twenty) < len(scored) else None,
        "captions": list(captions),
    }


def mean_name(twenty: int, tasks: int) -> str:
    """What the mean is of: its name says when it is the published one, over all of ELEVATER's 20 and no other task."""
    if not twenty or twenty < tasks:
        return "mean"
    return "mean of 20" if twenty == len(benchmarks.elevater()) else f"mean of {twenty} of ELEVATER's 20"


def described(column: Column) -> dict[str, Any]:
    return dataclasses.asdict(column) | {"seeds": list(column.seeds), "section": column.section}


def task_results(one: Scored, columns: Sequence[Column]) -> dict[str, Any]:
    labels, classes = one.labels, len(one.task.classes)
    counts = np.bincount(labels, minlength=classes) if labels.ndim == 1 else labels.sum(axis=0)
    return {
        "name": one.task.name,
        "metric": one.task.metric,
        "benchmark": one.task.benchmark,
        "multilabel": one.task.multilabel,
        "images": len(one.rows),
        "skipped": len(one.skipped),
        "classes": one.task.classes,
        "images_per_class": counts.tolist(),
        "templates": one.templates,
        "scores": {
            column.label: one.scores[column.label]
            | {"interval": interval_of([one], column.label), "gain": gain_of([one], column)}
            for column in columns
            if column.label in one.scores
        },
    }


def means(scored: Sequence[Scored], columns: Sequence[Column]) -> dict[str, dict[str, Any]]:
    """Of every column its mean over the tasks and its gain; of one that a task lacks, None and on how many it is."""
    made = {}
    for column in columns:
        there = [one for one in scored if column.label in one.scores]
        whole = bool(there) and len(there) == len(scored)
        made[column.label] = {
            "value": mean([one.scores[column.label]["value"] for one in scored]) if whole else None,
            "tasks": len(there),
            "interval": interval_of(scored, column.label) if whole else None,
            "gain": gain_of(scored, column) if whole else None,
        }
    return made


def interval_of(scored: Sequence[Scored], label: str) -> dict[str, float] | None:
    """Where a column's own mean over these tasks lies; None where that cannot be said, as in `gain_of`."""
    if any(one.scores[label]["value"] is None or single_class(one) for one in scored):
        return None
    entries = [
        Single(one.task.metric, one.labels, one.odds[label])
        if one.task.metric in BY_PROBABILITY
        else (one.right[label], clusters(one))
        for one in scored
    ]
    found = interval_of_mean(entries, per=[one.per for one in scored], level=LEVEL)
    return {"low": found.low, "high": found.high}


def gain_of(scored: Sequence[Scored], column: Column, against: str | None = None) -> dict[str, float | None] | None:
    """The gain of the column's mean over these tasks over that of `against`, with its interval; None for a column
    without one, or where a task lacks either. `p` is of the paired permutation test. Bounds and p are None when they cannot
    be said: a task has images of one class only, or its metric does not exist on them."""
    base = against or column.against
    if base is None or not all({base, column.label} <= one.scores.keys() for one in scored):
        return None
    values = [(one.scores[base]["value"], one.scores[column.label]["value"]) for one in scored]
    if any(None in pair for pair in values):
        return None
    difference = float(np.mean([after - before for before, after in values]))
    if any(single_class(one) for one in scored):
        return {"difference": difference, "low": None, "high": None, "p": None}
    entries, pers = [compared(one, base, column.label) for one in scored], [one.per for one in scored]
    interval = paired_interval_of_mean(entries, per=pers, level=LEVEL)
    return bounds(interval, difference) | {"p": paired_test(entries, per=pers).p}


def single_class(one: Scored) -> bool:
    labels = one.labels
    return len(np.unique(labels)) < 2 if labels.ndim == 1 else len(labels) < 2


def compared(one: Scored, base: str, label: str) -> Paired | tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is drawn again of a task: which images are right, or where the metric ranks images their probabilities."""
    if one.task.metric in BY_PROBABILITY:
        return Paired(one.task.metric, one.labels, one.odds[base], one.odds[label])
    return one.right[base], one.right[label], clusters(one)


def clusters(one: Scored) -> np.ndarray:
    return one.labels if one.per == "class" else clusters_of(one.labels)


def bounds(interval: Interval, difference: float) -> dict[str, float]:
    """The interval about the difference that is shown. Where a metric ranks images, several seeds are drawn by their mean
    probabilities, whose difference may be a little another one."""
    shift = difference - interval.difference
    shift = 0.0 if abs(shift) < 1e-9 else shift
    return {"difference": interval.difference + shift, "low": interval.low + shift, "high": interval.high + shift}
