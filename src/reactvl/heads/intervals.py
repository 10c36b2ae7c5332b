"""Intervals of a score, and of the difference between two models on the same images.

Images of one class rise and fall together (a class's name is good or bad for all of them), so that the unit that is
drawn again is the class with all its images: a paired cluster bootstrap over classes. Pairing removes how hard an
image is, which both models share. Tasks are drawn independently of each other. Of a few classes, which are no sample of
others (tumour or none), single images are drawn; so they are for metrics that rank images (ROC AUC, mean average
precision), which are made anew for every draw.

The plain percentile interval of few clusters is too narrow; two corrections of the mean's small-sample error are
applied (Hesterberg, "What Teachers Should Know About the Bootstrap", 2015, section 3.3, the expanded percentile
interval): deviations are stretched by sqrt(C / (C - 1)) for C classes, and the percentiles are those of a normal curve
at the t quantile of C - 1 degrees of freedom (pooled by Welch's and Satterthwaite's rule over several tasks).
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from reactvl.heads.metrics import METRICS, decided
from reactvl.heads.weighted import Weighted, weighted_metric

Per = Literal["image", "class"]
FEW = (
    8  # classes; of fewer, no interval over classes is of use: of two there are three draws, and one degree of freedom
)
CHUNK = 4_000_000  # drawn counts held at once
WEIGHTS = 2_000_000  # drawn counts of images held at once: a few megabytes, which stay in the cache
RECOMPUTED = 2_000  # draws for which a ranking metric is made anew; where more are asked for, they are drawn from these
TRIES = 100  # draws in a row in which a metric does not exist


@dataclasses.dataclass(frozen=True)
class Interval:
    """A difference, `b` minus `a`, and the bounds between which it lies at the level asked for."""

    low: float
    high: float
    difference: float


@dataclasses.dataclass(frozen=True)
class Bounds:
    """A score, and the bounds between which it lies at the level asked for."""

    low: float
    high: float
    value: float


@dataclasses.dataclass(frozen=True)
class Paired:
    """Two models' scores (N, C) of the same images, and the metric of `METRICS` that judges them.

    `labels` int64 (N,) or bool (N, C). `clusters` (N,): what is drawn together; left out, `clusters_of` the labels for
    accuracies, the image for metrics that rank images. mean-per-class always draws classes.
    """

    metric: str
    labels: np.ndarray
    scores_a: np.ndarray
    scores_b: np.ndarray
    clusters: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Single:
    """One model's scores (N, C) and the metric that judges them, as `Paired`."""

    metric: str
    labels: np.ndarray
    scores: np.ndarray
    clusters: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A task's statistic, its deviations in every draw (resamples,), and their degrees of freedom."""

    point: float
    deviations: np.ndarray
    freedom: int


def paired_interval(
    correct_a: np.ndarray,
    correct_b: np.ndarray,
    clusters: np.ndarray,
    *,
    per: Per = "image",
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Interval of how much better `b` does than `a`: mean(correct_b) - mean(correct_a).

    `correct_a`, `correct_b`: (N,) bool, or float in [0, 1] (a mean over seeds), of the same images in the same order;
    `clusters`: (N,) the class of each image, any hashable dtype. `per="class"` takes the mean of the classes' means
    (mean-per-class accuracy). The same arguments give the same bounds. ValueError for shapes that differ, values out of
    range and fewer than two clusters (of one class nothing can be said about others).
    """
    return paired_interval_of_mean(
        [(correct_a, correct_b, clusters)], per=per, level=level, resamples=resamples, seed=seed
    )


def paired_interval_of_mean(
    tasks: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray] | Paired],
    *,
    per: Per | Sequence[Per] = "image",
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Interval of the mean over tasks of `paired_interval`'s difference; every task counts the same.

    Each of `tasks` is (correct_a, correct_b, clusters), or `Paired` scores under a metric; `per` is one for all or one a
    task, and of no meaning for `Paired`. Classes are drawn again within each task, so that the interval speaks of other
    classes of these tasks, not of other tasks. ValueError also for NaN and for a metric that does not exist on the
    images (ROC AUC of one class).
    """
    low, high, difference = interval_of_draws(tasks, per, level, resamples, seed)
    return Interval(low, high, difference)


def interval(
    correct: np.ndarray,
    clusters: np.ndarray,
    *,
    per: Per = "image",
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Bounds:
    """Interval of one model's accuracy, mean(correct), within [0, 1]; arguments and errors as `paired_interval`."""
    return interval_of_mean([(correct, clusters)], per=per, level=level, resamples=resamples, seed=seed)


def interval_of_mean(
    tasks: Sequence[tuple[np.ndarray, np.ndarray] | Single],
    *,
    per: Per | Sequence[Per] = "image",
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Bounds:
    """Interval of one model's mean over tasks, each (correct, clusters) or `Single`, as `paired_interval_of_mean`."""
    pairs = [
        task if isinstance(task, Single) else (np.zeros_like(task[0], dtype=np.float64), task[0], task[1])
        for task in tasks
    ]
    low, high, value = interval_of_draws(pairs, per, level, resamples, seed)
    return Bounds(max(low, 0.0), min(high, 1.0), value)


def clusters_of(labels: np.ndarray) -> np.ndarray:
    """What is drawn together of a task's images, int64 (N,): those of a class; single images where fewer than eight
    classes have any, or an image may have several."""
    if labels.ndim == 1 and len(np.unique(labels)) >= FEW:
        return labels
    return np.arange(len(labels))


def interval_of_draws(
    tasks: Sequence[tuple | Paired | Single], per: Per | Sequence[Per], level: float, resamples: int, seed: int
) -> tuple[float, float, float]:
    """(low, high, point) of the mean over tasks."""
    from scipy import stats

    if not tasks:
        raise ValueError("an interval needs at least one task")
    if not 0 < level < 1:
        raise ValueError(f"level {level}: must lie between 0 and 1")
    pers = [per] * len(tasks) if isinstance(per, str) else list(per)
    rng = np.random.default_rng(seed)
    point, deviations = 0.0, np.zeros(resamples)
    variances, freedoms = [], []
    for task, kind in zip(tasks, pers, strict=True):
        drawn = draw(task, kind, resamples, rng)
        point += drawn.point / len(tasks)
        part = drawn.deviations / len(tasks)
        deviations += part
        variances.append(part.var())
        freedoms.append(drawn.freedom)
    tail = float(stats.norm.cdf(stats.t.ppf((1 - level) / 2, pooled_freedom(variances, freedoms))))
    low, high = np.quantile(point + deviations, [tail, 1 - tail])
    return float(low), float(high), float(point)


def pooled_freedom(variances: Sequence[float], freedoms: Sequence[int]) -> float:
    """Degrees of freedom of a sum of independent means, by Welch's and Satterthwaite's rule.

    A task of few classes that brings most of the variance leaves few.
    """
    if not sum(variances):
        return sum(freedoms)
    return sum(variances) ** 2 / sum(v**2 / freedom for v, freedom in zip(variances, freedoms, strict=True))


def draw(task: tuple | Paired | Single, per: Per, resamples: int, rng: np.random.Generator) -> Drawn:
    if isinstance(task, Paired | Single):
        if task.metric not in METRICS:
            raise ValueError(f"metric {task.metric!r}: known are {', '.join(METRICS)}")
        if task.metric in ("roc_auc", "11point_mAP"):
            return draw_recomputed(task, resamples, rng)
        task, per = correctness(task)
    sums, sizes = cluster_sums(*task)
    if per == "class":
        sums, sizes = sums / sizes, np.ones_like(sizes)
    count = len(sums)
    point = sums.sum() / sizes.sum()
    deviations = (resampled(sums, sizes, resamples, rng) - point) * (count / (count - 1)) ** 0.5
    return Drawn(point, deviations, count - 1)


def correctness(task: Paired | Single) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], Per]:
    """Accuracies need no more of the scores than which images are right."""
    labels = np.asarray(task.labels)
    a, b = (np.zeros(len(labels)) if scores is None else right(labels, scores) for scores in scores_of(task))
    if task.metric == "mean-per-class":
        return (a, b, labels), "class"
    return (a, b, clusters_of(labels) if task.clusters is None else task.clusters), "image"


def right(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    labels, predicted = decided(labels, scores)
    return (labels == predicted).astype(np.float64)


def scores_of(task: Paired | Single) -> tuple[np.ndarray | None, np.ndarray]:
    """What is compared with what: of one model, nothing with its scores."""
    return (None, task.scores) if isinstance(task, Single) else (task.scores_a, task.scores_b)


def draw_recomputed(task: Paired | Single, resamples: int, rng: np.random.Generator) -> Drawn:
    """A draw in which the metric does not exist is drawn again.

    The best precision at a recall rises with the noise of a draw, so that draws of a mean average precision lie above
    it. Deviations are therefore from the draws' mean: the interval is where the score of as many other images lies.
    """
    images = len(task.labels)
    of_a, of_b = (
        None if scores is None else weighted_metric(task.metric, task.labels, scores) for scores in scores_of(task)
    )
    point = point_of(task)
    if np.isnan(point):
        raise ValueError(f"{task.metric} does not exist on these {images:,} images: they are all of one class")
    members = None if task.clusters is None else np.unique(task.clusters, return_inverse=True)[1]
    count = images if members is None else int(members.max()) + 1
    if count < 2 or (members is not None and members.shape != (images,)):
        raise ValueError(f"an interval needs two clusters of images or more, and the cluster of each, not {count}")
    values = np.empty(min(resamples, RECOMPUTED))
    done = tries = 0
    while done < len(values):
        weights = drawn_counts(count, min(len(values) - done, max(WEIGHTS // images, 1)), rng)
        made = difference(of_a, of_b, weights if members is None else weights[members])
        made = made[~np.isnan(made)]
        values[done : done + len(made)] = made
        done, tries = done + len(made), 0 if len(made) else tries + 1
        if tries == TRIES:
            raise ValueError(f"{task.metric} does not exist on any of the draws of these {images:,} images")
    deviations = (values - values.mean()) * (count / (count - 1)) ** 0.5
    return Drawn(point, deviations if len(values) == resamples else rng.choice(deviations, resamples), count - 1)


def point_of(task: Paired | Single) -> float:
    """The statistic of the images as they are."""
    values = [0.0 if scores is None else METRICS[task.metric](task.labels, scores) for scores in scores_of(task)]
    return values[1] - values[0]


def difference(of_a: Weighted | None, of_b: Weighted, weights: np.ndarray) -> np.ndarray:
    """The statistic of every draw, float64 (R,)."""
    return of_b(weights) if of_a is None else of_b(weights) - of_a(weights)


def drawn_counts(count: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of `count` things comes in each of `draws` draws of as many with replacement, float32 (count,
    draws)."""
    chosen = rng.integers(0, count, (draws, count)) + np.arange(draws)[:, None] * count
    counts = np.bincount(chosen.ravel(), minlength=draws * count).reshape(draws, count)
    return np.ascontiguousarray(counts.T, np.float32)


def cluster_sums(correct_a: np.ndarray, correct_b: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per cluster the sum of b - a and the number of images, float64 (C,) each."""
    a, b, clusters = (np.asarray(values) for values in (correct_a, correct_b, clusters))
    if a.ndim != 1 or not a.shape == b.shape == clusters.shape:
        raise ValueError(
            f"two models on the same images and their classes: shapes {a.shape}, {b.shape}, {clusters.shape}"
        )
    a, b = a.astype(np.float64), b.astype(np.float64)
    if not (np.isfinite(a) & np.isfinite(b) & (np.minimum(a, b) >= 0) & (np.maximum(a, b) <= 1)).all():
        raise ValueError("correctness must lie in [0, 1]")
    _, members = np.unique(clusters, return_inverse=True)
    sums, sizes = np.bincount(members, weights=b - a), np.bincount(members).astype(np.float64)
    if len(sums) < 2:
        raise ValueError(f"an interval clustered by class needs images of two classes or more, not {len(sums)}")
    return sums, sizes


def resampled(sums: np.ndarray, sizes: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """The difference of `resamples` draws of as many clusters with replacement, float64 (resamples,)."""
    count = len(sums)
    drawn = np.empty(resamples)
    rows = max(CHUNK // count, 1)
    for start in range(0, resamples, rows):
        here = min(rows, resamples - start)
        times = rng.multinomial(count, np.full(count, 1 / count), size=here).astype(np.float64)  # (here, C)
        drawn[start : start + here] = (times @ sums) / (times @ sizes)
    return drawn
