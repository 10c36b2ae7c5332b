"""Metrics of classification, over label arrays; they agree with scikit-learn's."""

import numpy as np


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


METRICS = {
    "accuracy": lambda labels, predicted, classes: accuracy(labels, predicted),
    "mean-per-class": mean_per_class,
}


def nonempty(labels: np.ndarray) -> np.ndarray:
    if not len(labels):
        raise ValueError("a metric needs at least one image")
    return labels
