"""From rankings to scores: metrics a task, means over tasks, gains over the first model with their intervals."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from reactvl.evaluate.features import Features
from reactvl.heads.intervals import Interval, Per, paired_interval, paired_interval_of_mean
from reactvl.heads.metrics import accuracy, mean_per_class, recalls, top_k_accuracy
from reactvl.heads.zero_shot import Ranking
from reactvl.manifest import ReactvlError
from reactvl.tasks import Samples, Task

LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one model says of one task: the ranking of the images `rows`, and the rows it could not read."""

    rows: np.ndarray
    ranking: Ranking
    bad: dict[int, str]

    @classmethod
    def of(cls, features: Features, ranking: Ranking) -> "Answer":
        return cls(features.rows, ranking, features.bad)


@dataclasses.dataclass(frozen=True)
class Scored:
    """A task with the answers of all models on the images that all of them could read.

    `rows` int64 (N,) are positions in `samples`; `rankings` are by label, of these rows; `skipped` lists (image,
    reason).
    """

    task: Task
    templates: list[str]
    samples: Samples
    rows: np.ndarray
    rankings: dict[str, Ranking]
    skipped: list[tuple[str, str]]

    @property
    def labels(self) -> np.ndarray:
        """The labels of `rows`, int64 (N,)."""
        return self.samples.labels[self.rows]

    def correct(self, label: str) -> np.ndarray:
        """Whether the model finds each image's class, bool (N,)."""
        return self.rankings[label].predicted == self.labels

    @property
    def per(self) -> Per:
        return "class" if self.task.metric == "mean-per-class" else "image"


def align(task: Task, templates: list[str], samples: Samples, answers: dict[str, Answer]) -> Scored:
    """Put all models' answers on their common images; ReactvlError when there are none."""
    bad = {row: reason for answer in reversed(answers.values()) for row, reason in answer.bad.items()}
    rows = np.array([row for row in range(len(samples)) if row not in bad], np.int64)
    skipped = samples.unusable + [(samples.names[row], bad[row]) for row in sorted(bad)]
    if not len(rows):
        name, reason = skipped[0]
        raise ReactvlError(f"task {task.name}: none of its {len(samples):,} images could be read ({name}: {reason})")
    rankings = {}
    for label, answer in answers.items():
        at = np.searchsorted(answer.rows, rows)
        rankings[label] = Ranking(answer.ranking.classes[at], answer.ranking.probabilities[at])
    return Scored(task, templates, samples, rows, rankings, skipped)


def results(scored: Sequence[Scored], models: Sequence[dict[str, Any]], facts: dict[str, Any]) -> dict[str, Any]:
    """All scores as plain JSON values: fractions, None where a figure does not exist.

    `models` describe the models in order, the base first, each with its `label`.
    """
    labels = [model["label"] for model in models]
    base = labels[0]
    means = {}
    for label in labels:
        values = [score_of(one, label)["value"] for one in scored]
        means[label] = {
            "value": float(np.mean(values)),
            "gain": None if label == base else mean_gain(scored, base, label),
        }
    return {
        **facts,
        "level": LEVEL,
        "models": list(models),
        "tasks": [task_results(one, labels) for one in scored],
        "mean": means,
    }


def task_results(one: Scored, labels: Sequence[str]) -> dict[str, Any]:
    scores = {}
    for label in labels:
        gained = None if label == labels[0] else gain(one, labels[0], label)
        scores[label] = score_of(one, label) | {"gain": gained}
    return {
        "name": one.task.name,
        "metric": one.task.metric,
        "images": len(one.rows),
        "skipped": len(one.skipped),
        "classes": one.task.classes,
        "images_per_class": np.bincount(one.labels, minlength=len(one.task.classes)).tolist(),
        "templates": one.templates,
        "scores": scores,
    }


def score_of(one: Scored, label: str) -> dict[str, Any]:
    """The task's metric as `value`, and the others."""
    ranking, truth, classes = one.rankings[label], one.labels, len(one.task.classes)
    return {
        "value": accuracy(truth, ranking.predicted)
        if one.task.metric == "accuracy"
        else mean_per_class(truth, ranking.predicted, classes),
        "top1": top_k_accuracy(truth, ranking.classes, 1),
        "top5": top_k_accuracy(truth, ranking.classes, 5) if classes > 5 else None,
        "mean_per_class": mean_per_class(truth, ranking.predicted, classes),
        "recalls": [
            None if math.isnan(recall) else recall for recall in recalls(truth, ranking.predicted, classes).tolist()
        ],
    }


def gain(one: Scored, base: str, label: str) -> dict[str, float | None]:
    """The gain over the base with its interval; bounds are None when the images are of one class."""
    if len(np.unique(one.labels)) < 2:
        return {"difference": score_of(one, label)["value"] - score_of(one, base)["value"], "low": None, "high": None}
    return plain(paired_interval(one.correct(base), one.correct(label), one.labels, per=one.per, level=LEVEL))


def mean_gain(scored: Sequence[Scored], base: str, label: str) -> dict[str, float | None]:
    """The gain of the mean over tasks with its interval; bounds are None when a task has images of one class only."""
    if any(len(np.unique(one.labels)) < 2 for one in scored):
        every = [gain(one, base, label)["difference"] for one in scored]
        return {"difference": float(np.mean(every)), "low": None, "high": None}
    pairs = [(one.correct(base), one.correct(label), one.labels) for one in scored]
    return plain(paired_interval_of_mean(pairs, per=[one.per for one in scored], level=LEVEL))


def plain(interval: Interval) -> dict[str, float | None]:
    return {"difference": interval.difference, "low": interval.low, "high": interval.high}
