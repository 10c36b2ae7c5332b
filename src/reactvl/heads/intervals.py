"""Intervals of the difference between two models on the same images.

Images of one class rise and fall together (a class's name is good or bad for all of them), so that the unit that is
drawn again is the class with all its images: a paired cluster bootstrap over classes. Pairing removes how hard an
image is, which both models share. Tasks are drawn independently of each other.

The plain percentile interval of few clusters is too narrow; two corrections of the mean's small-sample error are
applied (Hesterberg, "What Teachers Should Know About the Bootstrap", 2015, section 3.3, the expanded percentile
interval): deviations are stretched by sqrt(C / (C - 1)) for C classes, and the percentiles are those of a normal curve
at the t quantile of C - 1 degrees of freedom (pooled by Welch's and Satterthwaite's rule over several tasks).
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

Per = Literal["image", "class"]
CHUNK = 4_000_000  # drawn counts held at once


@dataclasses.dataclass(frozen=True)
class Interval:
    """A difference, `b` minus `a`, and the bounds between which it lies at the level asked for."""

    low: float
    high: float
    difference: float


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
    tasks: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    *,
    per: Per | Sequence[Per] = "image",
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Interval of the mean over tasks of `paired_interval`'s difference; every task counts the same.

    Each of `tasks` is (correct_a, correct_b, clusters); `per` is one for all or one a task. Classes are drawn again
    within each task, so that the interval speaks of other classes of these tasks, not of other tasks.
    """
    from scipy import stats

    if not tasks:
        raise ValueError("an interval needs at least one task")
    if not 0 < level < 1:
        raise ValueError(f"level {level}: must lie between 0 and 1")
    pers = [per] * len(tasks) if isinstance(per, str) else list(per)
    rng = np.random.default_rng(seed)
    difference, deviations = 0.0, np.zeros(resamples)
    variances, freedoms = [], []
    for (correct_a, correct_b, clusters), kind in zip(tasks, pers, strict=True):
        sums, sizes = cluster_sums(correct_a, correct_b, clusters)
        if kind == "class":
            sums, sizes = sums / sizes, np.ones_like(sizes)
        count = len(sums)
        point = sums.sum() / sizes.sum()
        difference += point / len(tasks)
        stretched = (resampled(sums, sizes, resamples, rng) - point) * (count / (count - 1)) ** 0.5 / len(tasks)
        deviations += stretched
        variances.append(stretched.var())
        freedoms.append(count - 1)
    tail = float(stats.norm.cdf(stats.t.ppf((1 - level) / 2, pooled_freedom(variances, freedoms))))
    low, high = np.quantile(difference + deviations, [tail, 1 - tail])
    return Interval(float(low), float(high), float(difference))


def pooled_freedom(variances: Sequence[float], freedoms: Sequence[int]) -> float:
    """Degrees of freedom of a sum of independent means, by Welch's and Satterthwaite's rule.

    A task of few classes that brings most of the variance leaves few.
    """
    if not sum(variances):
        return sum(freedoms)
    return sum(variances) ** 2 / sum(v**2 / freedom for v, freedom in zip(variances, freedoms, strict=True))


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
