"""Metrics of classification: over predicted classes, and over scores (N, C), as ELEVATER reports them.

    METRICS[task.metric](labels, scores)        # labels int64 (N,), or bool (N, C) where an image may have several

They agree with scikit-learn's, and the mean average precision with the library that ELEVATER's toolkit calls.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

RECALL_LEVELS = np.linspace(1, 0, 11)  # ELEVATER's, to the last bit: 0.7 of ten is not 7 / 10 of them


def accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Share of images whose predicted class is the label. ValueError without images."""
    return float((nonempty(labels) == predicted).mean())


def top_k_accuracy(labels: np.ndarray, ranked: np.ndarray, k: int) -> float:
    """Share of images with the label among their first `k` classes; `ranked` is int (N, >= k), best first."""
    if ranked.shape[1] < k:
        raise ValueError(f"top-{k} of {ranked.shape[1]} ranked classes")
    return float((ranked[:, :k] == nonempty(labels)[:, None]).any(axis=1).mean())


def mean_per_class(labels: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """Mean of the classes' recalls, over the classes that have an image (ELEVATER's mean-per-class accuracy)."""
    nonempty(labels)
    return float(np.nanmean(recalls(labels, predicted, classes)))


def recalls(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Share of each class's images that are found, float64 (classes,); NaN for a class without an image."""
    images = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels[labels == predicted], minlength=classes)
    return np.divide(hits, images, out=np.full(classes, np.nan), where=images > 0)


def confusions(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Images of class i taken for class j, int64 (classes, classes)."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def roc_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    Of two classes, by the probability of class 1 (ELEVATER's hateful-memes); of more, and of multilabel tasks, the mean
    over classes, each against the rest. Classes without a positive or a negative are left out; NaN where none is left,
    as scikit-learn gives. ValueError for two-class scores that are no probabilities: a logit of class 1 says nothing
    without that of class 0.
    """
    labels, scores = checked(labels, scores)
    positive = one_hot(labels, scores)
    if labels.ndim == 1 and scores.shape[1] == 2:
        if scores.min() < 0 or scores.max() > 1 + 1e-6:
            raise ValueError("roc_auc of two classes takes probabilities, between 0 and 1")
        positive, scores = positive[:, 1:], scores[:, 1:]
    areas = [area(positive[:, number], scores[:, number]) for number in range(scores.shape[1])]
    return mean_of_defined(np.array(areas))


def area(positive: np.ndarray, scores: np.ndarray) -> float:
    """The ROC area of one class by Mann and Whitney's count; NaN without a positive or without a negative."""
    count = int(positive.sum())
    if not 0 < count < len(positive):
        return np.nan
    below = np.sort(scores[~positive])
    wins = np.searchsorted(below, scores[positive], "left") + np.searchsorted(below, scores[positive], "right")
    return float(wins.sum() / (2 * count * (len(positive) - count)))


def mean_average_precision(
    labels: np.ndarray, scores: np.ndarray, *, rule: Literal["elevater", "voc"] = "elevater"
) -> float:
    """Mean over classes of the 11-point interpolated average precision of PASCAL VOC 2007.

    Mean over the recalls 0, 0.1 ... 1 of the best precision at that recall or a higher one. `rule="elevater"`: as its
    toolkit has it, the curve ends at precision 1 and recall 0, so that the point of recall 0 always counts 1; "voc": as
    VOC's own tool has it, only precisions that a set of images reaches count. Images of equal score come together.
    Classes without a positive are left out; NaN where none is left.
    """
    labels, scores = checked(labels, scores)
    positive = one_hot(labels, scores)
    each = [average_precision(positive[:, number], scores[:, number], rule) for number in range(scores.shape[1])]
    return mean_of_defined(np.array(each))


def average_precision(positive: np.ndarray, scores: np.ndarray, rule: str = "elevater") -> float:
    """The 11-point average precision of one class; NaN without a positive."""
    if not positive.any():
        return np.nan
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # the last image of every score
    found = np.cumsum(positive[order])[ends]
    precision, recall = found / (ends + 1), found / found[-1]
    best = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or a higher one
    points = best[np.searchsorted(recall, RECALL_LEVELS)]
    if rule == "elevater":
        points[-1] = 1
    return float(points.mean())


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": lambda labels, scores: accuracy(*decided(labels, scores)),
    "mean-per-class": lambda labels, scores: mean_per_class(*decided(labels, scores), scores.shape[1]),
    "roc_auc": roc_auc,
    "11point_mAP": mean_average_precision,
}


def decided(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and the classes of the highest scores, of equals the first, int64 (N,) each."""
    labels, scores = checked(labels, scores)
    return single(labels, "accuracy"), scores.argmax(axis=1)


def checked(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels int64 (N,) or bool (N, C), scores float (N, C). ValueError for other shapes or types, labels that are no
    class, no image, and for NaN: a model that answers NaN has no score."""
    labels, scores = np.asarray(labels), np.asarray(scores)
    if scores.ndim != 2 or not scores.shape[1] or labels.shape not in (scores.shape[:1], scores.shape):
        raise ValueError(
            f"labels (N,) or (N, C) and scores (N, C) of the same images: shapes {labels.shape}, {scores.shape}"
        )
    nonempty(labels)
    if np.isnan(scores).any():
        raise ValueError(f"the scores of {int(np.isnan(scores).any(axis=1).sum())} of {len(scores)} images are NaN")
    if labels.ndim == 2:
        if labels.dtype != bool:
            raise ValueError(f"labels of several classes an image are bool (N, C), not {labels.dtype}")
    elif not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise ValueError(f"labels must be integers from 0 to {scores.shape[1] - 1}")
    return labels, scores


def single(labels: np.ndarray, metric: str) -> np.ndarray:
    if labels.ndim != 1:
        raise ValueError(f"{metric} needs one label an image; a multilabel task is scored by 11point_mAP or roc_auc")
    return labels


def one_hot(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """bool (N, C)."""
    return labels if labels.ndim == 2 else labels[:, None] == np.arange(scores.shape[1])


def mean_of_defined(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def nonempty(labels: np.ndarray) -> np.ndarray:
    if not len(labels):
        raise ValueError("a metric needs at least one image")
    return labels
