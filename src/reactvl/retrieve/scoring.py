"""How well rows of the pool fit classes: z-scores of the classes' mean queries, joined over the modes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reactvl.search.hits import part_offsets
from reactvl.search.rescore import gather

SAMPLE_ROWS = 32_768
CHUNK_ROWS = 16_384
CHUNK_VALUES = 1 << 22  # float64 scores of a chunk and mode: 32 MiB, whatever the number of names
NAMES_AT_A_TIME = 512


def mean_queries(vectors: np.ndarray, name_of_query: np.ndarray, names: int) -> np.ndarray:
    """float64 (names, D): the normalised mean of each name's normalised query vectors (Q, D); zeros for a name that has
    none."""
    vectors = vectors.astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    means = np.zeros((names, vectors.shape[1]))
    np.add.at(means, name_of_query, vectors)
    length = np.linalg.norm(means, axis=1, keepdims=True)
    return np.divide(means, length, out=np.zeros_like(means), where=length > 0)


def joined(scores: list[np.ndarray]) -> np.ndarray:
    """One score of the z-scores of all modes (arrays of one shape): the length of their vector, negative ones as 0.

    Where all are negative it is the largest of them, so that order is kept; a single mode is left as it is.
    """
    length = np.sqrt(sum(np.maximum(score, 0.0) ** 2 for score in scores))
    return np.where(length > 0, length, np.maximum.reduce(scores)) if len(scores) > 1 else scores[0]


@dataclass(frozen=True)
class Fit:
    """Scores of pairs (name, row), arrays of one length n: `joint` float64, the z-score of each mode, which name fits the
    row best of all (`best` int64, the lower number among equals), and by how much the pair's own name is ahead of the best
    other one (`lead` float64, where asked for)."""

    joint: np.ndarray
    by_mode: dict[str, np.ndarray]
    best: np.ndarray
    lead: np.ndarray | None


class FitScores:
    """z-scores of rows for all names under each mode.

    means: a mode's mean queries, float64 (names, D), zeros for a name that has none in that mode: such a name scores minus
    infinity there, and what the other modes say of it is stretched by sqrt(modes / its modes), as if the missing ones said
    the same on average. sides: a mode's parts, float16 or float32 (rows, D) matrices.
    """

    def __init__(self, means: dict[str, np.ndarray], sides: dict[str, Sequence[np.ndarray]], seed: int):
        self.means, self.sides = means, sides
        self.offsets = part_offsets(next(iter(sides.values())))
        self.absent = {mode: ~mean.any(axis=1) for mode, mean in means.items()}
        modes = sum((~absent).astype(np.float64) for absent in self.absent.values())
        self.stretch = np.sqrt(len(means) / np.maximum(modes, 1.0)) if (modes < len(means)).any() else None
        self.spread = {mode: self._background(mode, seed) for mode in sides}

    @property
    def names(self) -> int:
        return len(next(iter(self.means.values())))

    def _background(self, mode: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (names,) of each mean query's similarity to a sample of the pool."""
        rows = int(self.offsets[-1])
        generator = np.random.default_rng([seed, 2])
        chosen = np.arange(rows) if rows <= SAMPLE_ROWS else np.sort(generator.choice(rows, SAMPLE_ROWS, replace=False))
        sample = self._gathered(mode, chosen)
        mean, spread = np.empty(self.names), np.empty(self.names)
        for first in range(0, self.names, NAMES_AT_A_TIME):
            some = slice(first, first + NAMES_AT_A_TIME)
            similar = sample @ self.means[mode][some].T
            mean[some], spread[some] = similar.mean(axis=0), similar.std(axis=0)
        return mean, np.where(spread > 1e-9, spread, 1.0)

    def _gathered(self, mode: str, rows: np.ndarray) -> np.ndarray:
        """float64 (n, D): the vectors of ascending rows; zeros for one with a NaN or an infinity."""
        found = gather(self.sides[mode], self.offsets, rows).astype(np.float64)
        found[~np.isfinite(found).all(axis=1)] = 0
        return found

    def of(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """float64 (n, names) z-scores of ascending rows, a matrix a mode; rounded to float32's precision, so that
        copies of a picture score alike wherever they stand in a product."""
        scores = {}
        for mode, (mean, spread) in self.spread.items():
            score = self._gathered(mode, rows) @ self.means[mode].T
            score -= mean
            score /= spread
            scores[mode] = score.astype(np.float32).astype(np.float64)
            scores[mode][:, self.absent[mode]] = -np.inf
        return scores

    def join(self, scores: dict[str, np.ndarray]) -> np.ndarray:
        """float64 (n, names): one score of all modes."""
        both = joined(list(scores.values()))
        return both if self.stretch is None else np.where(both > 0, both * self.stretch, both)

    def of_pairs(self, name: np.ndarray, row: np.ndarray, *, lead: bool = False) -> Fit:
        """The fit of pairs (name, row), both int64 (n,), in any order."""
        joint = np.empty(len(row))
        single = {mode: np.empty(len(row)) for mode in self.sides}
        best = np.empty(len(row), dtype=np.int64)
        ahead = np.empty(len(row)) if lead else None
        order = np.argsort(row, kind="stable")
        rows, start = np.unique(row[order], return_index=True)
        start = np.append(start, len(order))
        height = max(1, min(CHUNK_ROWS, CHUNK_VALUES // self.names))
        for first in range(0, len(rows), height):
            last = min(first + height, len(rows))
            entries = order[start[first] : start[last]]
            at = np.searchsorted(rows[first:last], row[entries])
            scores = self.of(rows[first:last])
            both = self.join(scores)
            joint[entries] = both[at, name[entries]]
            best[entries] = (top := both.argmax(axis=1))[at]
            for mode, values in scores.items():
                single[mode][entries] = values[at, name[entries]]
            if ahead is not None:
                ahead[entries] = joint[entries] - _best_other(both, top, at, name[entries])
        return Fit(joint, single, best, ahead)


def _best_other(both: np.ndarray, top: np.ndarray, at: np.ndarray, name: np.ndarray) -> np.ndarray:
    """float64 (n,): the best score that row `at` has under any other name than `name`; minus infinity without one."""
    places = np.arange(len(both))
    first = both[places, top]
    both[places, top] = -np.inf
    second = both.max(axis=1)
    both[places, top] = first
    return np.where(top[at] == name, second[at], first[at])
