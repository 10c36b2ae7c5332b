"""A paired test between two models on the same images: could the difference be chance?

If the models were equally good, then which of them gave which answer would not matter: the answers are swapped at random,
a class with all its images at a time (the unit of `intervals`; single images for metrics that rank them), and the
difference is compared with those that swapping makes (Fisher's and Pitman's permutation test; of single images and
accuracies it is McNemar's). Metrics that rank images see each model's ranks instead of its scores, so that two scales of
confidence can be swapped.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from reactvl.heads.intervals import RECOMPUTED, WEIGHTS, Paired, Per, cluster_sums, correctness, point_of
from reactvl.heads.weighted import weighted_metric

SLACK = 1e-9  # sums of the same terms in another order


@dataclasses.dataclass(frozen=True)
class Chance:
    """The difference, `b` minus `a`, and how often swapping makes one as large, of either sign."""

    difference: float
    p: float


def paired_test(
    tasks: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray] | Paired],
    *,
    per: Per | Sequence[Per] = "image",
    swaps: int = 10_000,
    seed: int = 0,
) -> Chance:
    """Two-sided test of the mean over tasks, each as for `paired_interval_of_mean`, whose errors are raised here too.

    `p` is (1 + swaps with a difference as large) / (1 + swaps): never 0, and valid for any number of swaps; metrics that
    rank images are made anew for 2,000. Of C clusters there are 2^C swaps, so that p stays above 2 / 2^C.
    """
    if not tasks:
        raise ValueError("a test needs at least one task")
    pers = [per] * len(tasks) if isinstance(per, str) else list(per)
    rng = np.random.default_rng(seed)
    parts = [swapped(task, kind, swaps, rng) for task, kind in zip(tasks, pers, strict=True)]
    count = max(len(drawn) for _, drawn in parts)
    difference = float(np.mean([point for point, _ in parts]))
    chance = np.mean([drawn if len(drawn) == count else rng.choice(drawn, count) for _, drawn in parts], axis=0)
    as_large = int((np.abs(chance) >= abs(difference) - SLACK).sum())
    return Chance(difference, (1 + as_large) / (1 + count))


def swapped(
    task: tuple[np.ndarray, np.ndarray, np.ndarray] | Paired, per: Per, swaps: int, rng: np.random.Generator
) -> tuple[float, np.ndarray]:
    """The difference, and those of swapped answers, float64 (at most `swaps`,)."""
    if isinstance(task, Paired):
        if task.metric in ("roc_auc", "11point_mAP"):
            return swapped_ranks(task, min(swaps, RECOMPUTED), rng)
        task, per = correctness(task)
    sums, sizes = cluster_sums(*task)
    parts = sums / sizes / len(sums) if per == "class" else sums / sizes.sum()
    drawn = np.empty(swaps)
    rows = max(WEIGHTS // len(parts), 1)
    for start in range(0, swaps, rows):
        here = min(rows, swaps - start)
        drawn[start : start + here] = rng.choice([-1.0, 1.0], (here, len(parts))) @ parts
    return float(parts.sum()), drawn


def swapped_ranks(task: Paired, swaps: int, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    from scipy.stats import rankdata

    point, images = point_of(task), len(task.labels)
    if np.isnan(point):
        raise ValueError(f"{task.metric} does not exist on these {images:,} images: they are all of one class")
    labels = np.concatenate([task.labels, task.labels])
    metric = weighted_metric(
        task.metric, labels, np.concatenate([rankdata(scores, axis=0) for scores in (task.scores_a, task.scores_b)])
    )
    members = np.arange(images) if task.clusters is None else np.unique(task.clusters, return_inverse=True)[1]
    drawn = np.empty(swaps)
    rows = max(WEIGHTS // (2 * images), 1)
    for start in range(0, swaps, rows):
        here = min(rows, swaps - start)
        own = rng.integers(0, 2, (members.max() + 1, here)).astype(np.float32)[members]  # 1: each its own answer
        drawn[start : start + here] = metric(np.concatenate([1 - own, own])) - metric(np.concatenate([own, 1 - own]))
    return point, drawn
