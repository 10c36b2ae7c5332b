"""Calibration: whether a model that says 80% is right 80 times in 100."""

import dataclasses

import numpy as np

from reactvl.heads.metrics import checked


@dataclasses.dataclass(frozen=True)
class Reliability:
    """Bins of equal width over the confidence in [0, 1], lowest first: mean `confidence` and `accuracy` of a bin's
    images, float64 (bins,), NaN in an empty one, and their `count`, int64 (bins,)."""

    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error of these bins."""
        held = self.count > 0
        gaps = np.abs(self.confidence[held] - self.accuracy[held])
        return float((gaps * self.count[held]).sum() / self.count.sum())


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error of the likeliest class (Guo et al., "On Calibration of Modern Neural Networks", 2017).

    Over `bins` bins of equal width, |mean confidence - accuracy| weighted by the images of a bin; 0 is best, 1 worst.
    `labels` int64 (N,), `probabilities` (N, C); or bool (N, C) labels of a multilabel task, whose N x C answers "this
    class is there" are then judged each. ValueError as `reliability`.
    """
    return reliability(labels, probabilities, bins).error


def reliability(labels: np.ndarray, probabilities: np.ndarray, bins: int = 15) -> Reliability:
    """The reliability diagram's bins; bin b holds confidences in (b / bins, (b + 1) / bins], the first 0 as well.

    ValueError without images, for values that are no probabilities (NaN, outside [0, 1]), for fewer than one bin.
    """
    if bins < 1:
        raise ValueError(f"bins {bins}: must be 1 or more")
    labels, probabilities = checked(labels, probabilities)
    if probabilities.min() < 0 or probabilities.max() > 1 + 1e-6:
        raise ValueError("calibration takes probabilities, between 0 and 1")
    if labels.ndim == 2:
        confidence, right = probabilities.ravel(), labels.ravel()
    else:
        best = probabilities.argmax(axis=1)
        confidence, right = probabilities[np.arange(len(best)), best], best == labels
    confidence = confidence.astype(np.float64)
    at = np.clip(np.searchsorted(np.linspace(0, 1, bins + 1), confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(at, minlength=bins)
    sums = np.bincount(at, weights=confidence, minlength=bins), np.bincount(at, weights=right, minlength=bins)
    means = [np.divide(total, count, out=np.full(bins, np.nan), where=count > 0) for total in sums]
    return Reliability(*means, count)
