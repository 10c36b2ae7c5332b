"""Which training images a probe sees: few shots a class, and the part of them that judges learning rates and penalties.

Both draws are ELEVATER's (its toolkit and the `vision-datasets` package under it), so that the same index file and seed
give the same images there and here.
"""

import math
import random

import numpy as np

ALL = "all"


def rows(labels: np.ndarray, shots: int | str, seed: int, classes: int) -> np.ndarray:
    """The rows drawn, int64, in the order of the draw; `shots` "all" takes every row as it stands.

    `labels` int64 (N,): `shots` images a class without replacement, all of a class that has fewer. `labels` bool (N, C):
    images in shuffled order, each taken while its rarest class so far has fewer than `shots` and, of those, either that
    class has at most half of them or its commonest at most one and a half times as many; images without a label up to
    `shots`; until every class has enough. A class that only comes with common ones may stay below.
    ValueError for labels outside the classes, and fewer than one shot.
    """
    labels = checked(labels, classes)
    if shots == ALL:
        return np.arange(len(labels))
    shots = int(shots)
    if shots < 1:
        raise ValueError(f"shots {shots}: must be 1 or more, or {ALL!r}")
    order = list(range(len(labels)))
    random.Random(seed).shuffle(order)
    counts, unlabelled, taken = np.zeros(classes, np.int64), 0, []
    for row in order:
        own = labels[row] if labels.ndim == 1 else np.flatnonzero(labels[row])
        if labels.ndim == 2 and not len(own):
            if unlabelled < shots:
                taken.append(row)
                unlabelled += 1
            continue
        least, most = counts[own].min(), counts[own].max()
        if least < shots and (least <= shots / 2 or most <= 1.5 * shots):
            taken.append(row)
            counts[own] += 1
            if counts.min() >= shots:
                break
    return np.array(taken, np.int64)


def split(labels: np.ndarray, share: float = 0.2, seed: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows to validate on, int64 each, both ascending.

    Validation takes `share` of each class, rounded up: its first rows (few shots come in the order of a draw already), or,
    with a seed, its first after a shuffle. Of several labels an image (bool (N, C)), images are taken, class by class, until
    each class has its share. A class of one row keeps it for training, where ELEVATER would validate on it.
    ValueError for a share that is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"share {share}: must lie between 0 and 1")
    labels = np.asarray(labels)
    order = np.arange(len(labels))
    if seed is not None:
        order = np.random.default_rng(seed).permutation(order)
    shuffled = labels[order]
    judges = single(shuffled, share) if labels.ndim == 1 else several(shuffled, share)
    chosen = np.zeros(len(labels), bool)
    chosen[order[judges]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def single(labels: np.ndarray, share: float) -> list[int]:
    found = []
    for name in np.unique(labels):
        here = np.flatnonzero(labels == name)
        found += here[: math.ceil(len(here) * share) if len(here) > 1 else 0].tolist()
    return found


def several(labels: np.ndarray, share: float) -> list[int]:
    totals = labels.sum(axis=0)
    wanted = np.where(totals > 1, np.ceil(totals * share), 0)
    left, found = labels.copy(), []
    for name in range(labels.shape[1]):
        for row in np.flatnonzero(left[:, name]):
            if wanted[name] <= 0:
                break
            found.append(int(row))
            wanted -= left[row]
            left[row] = False
    return found


def checked(labels: np.ndarray, classes: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == classes:
        return labels.astype(bool)
    if labels.ndim != 1 or (len(labels) and not 0 <= labels.min() <= labels.max() < classes):
        raise ValueError(f"labels {labels.shape} of {classes} classes: numbers below it, or a column a class")
    return labels
