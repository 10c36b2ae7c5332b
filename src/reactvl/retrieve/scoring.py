"""How well rows of the pool fit classes: z-scores of the classes' mean queries, joined over the modes."""

from collections.abc import Sequence

import numpy as np

from reactvl.search.hits import part_offsets
from reactvl.search.index import finite
from reactvl.search.rescore import gather

SAMPLE_ROWS = 32_768
CHUNK_ROWS = 16_384


def mean_queries(vectors: np.ndarray, name_of_query: np.ndarray, names: int) -> np.ndarray:
    """float64 (names, D): the normalised mean of each name's normalised prompt vectors (Q, D)."""
    vectors = vectors.astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    means = np.zeros((names, vectors.shape[1]))
    np.add.at(means, name_of_query, vectors)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def joined(scores: list[np.ndarray]) -> np.ndarray:
    """One score of the z-scores of all modes (arrays of one shape): the length of their vector, negative ones as 0.

    Where all are negative it is the largest of them, so that order is kept; a single mode is left as it is.
    """
    length = np.sqrt(sum(np.maximum(score, 0.0) ** 2 for score in scores))
    return np.where(length > 0, length, np.maximum.reduce(scores)) if len(scores) > 1 else scores[0]


class FitScores:
    """z-scores of rows for all names under each mode; `sides` maps a mode to its parts (float16 (rows, D) matrices)."""

    def __init__(self, means: np.ndarray, sides: dict[str, Sequence[np.ndarray]], seed: int):
        self.means, self.sides = means, sides
        self.offsets = part_offsets(next(iter(sides.values())))
        self.spread = {mode: self._background(mode, seed) for mode in sides}

    def _background(self, mode: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (names,) of each mean query's similarity to a sample of the pool."""
        rows = int(self.offsets[-1])
        generator = np.random.default_rng([seed, 2])
        chosen = np.arange(rows) if rows <= SAMPLE_ROWS else np.sort(generator.choice(rows, SAMPLE_ROWS, replace=False))
        similar = self._similar(mode, chosen)
        spread = similar.std(axis=0)
        return similar.mean(axis=0), np.where(spread > 1e-9, spread, 1.0)

    def _similar(self, mode: str, rows: np.ndarray) -> np.ndarray:
        """float64 (n, names): similarities of ascending rows."""
        return finite(gather(self.sides[mode], self.offsets, rows)).astype(np.float64) @ self.means.T

    def of(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """float64 (n, names) z-scores of ascending rows, a matrix a mode; rounded to float32's precision, so that
        copies of a picture score alike wherever they stand in a product."""
        scores = {}
        for mode, (mean, spread) in self.spread.items():
            scores[mode] = ((self._similar(mode, rows) - mean) / spread).astype(np.float32).astype(np.float64)
        return scores

    def of_pairs(self, name: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
        """For pairs (name, row): the joint score float64 (n,), the z-score of each mode, and which name fits the row
        best of all, int64 (n,) (the lower number among equals)."""
        joint = np.empty(len(row))
        single = {mode: np.empty(len(row)) for mode in self.sides}
        best = np.empty(len(row), dtype=np.int64)
        order = np.argsort(row, kind="stable")
        rows, start = np.unique(row[order], return_index=True)
        start = np.append(start, len(order))
        for first in range(0, len(rows), CHUNK_ROWS):
            last = min(first + CHUNK_ROWS, len(rows))
            entries = order[start[first] : start[last]]
            at = np.searchsorted(rows[first:last], row[entries])
            scores = self.of(rows[first:last])
            both = joined(list(scores.values()))
            joint[entries] = both[at, name[entries]]
            best[entries] = both.argmax(axis=1)[at]
            for mode, values in scores.items():
                single[mode][entries] = values[at, name[entries]]
        return joint, single, best
