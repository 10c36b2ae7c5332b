"""What a search returns: one entry a found row, so that "nothing found" has no number that could be read as a row."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Hits:
    """Found rows, ordered by query and then by rank; all arrays have one length n.

    query: int32, which query found it; row: int64, counted over all parts in order; score: float32, inner product;
    rank: int32, 0 is the best of its query. `queries` is how many were asked: one that found nothing has no entry.
    `unfit` counts key rows with a NaN or an infinity, which are never found.
    """

    query: np.ndarray
    row: np.ndarray
    score: np.ndarray
    rank: np.ndarray
    queries: int
    unfit: int = 0

    def __len__(self) -> int:
        return len(self.row)

    def bounds(self) -> np.ndarray:
        """int64 (queries + 1,): the entries of query q are `bounds[q]` to `bounds[q + 1]`."""
        return np.searchsorted(self.query, np.arange(self.queries + 1))


def ordered(query: np.ndarray, row: np.ndarray, score: np.ndarray, queries: int, k: int, unfit: int = 0) -> Hits:
    """Hits of loose entries: the best `k` of each query, by score (in the precision given), ties by the lower row."""
    order = np.lexsort((row, -score, query))
    return ranked(query[order], row[order], score[order], queries, k, unfit)


def ranked(query: np.ndarray, row: np.ndarray, score: np.ndarray, queries: int, k: int, unfit: int = 0) -> Hits:
    """Hits of entries that are in order already, cut to `k` a query."""
    rank = np.arange(len(query)) - np.searchsorted(query, np.arange(queries + 1))[query]
    kept = rank < k
    return Hits(
        query=query[kept].astype(np.int32),
        row=row[kept].astype(np.int64),
        score=score[kept].astype(np.float32),
        rank=rank[kept].astype(np.int32),
        queries=queries,
        unfit=unfit,
    )


def checked_queries(queries: np.ndarray, dim: int | None = None) -> np.ndarray:
    """Queries as contiguous float32 (Q, D); ValueError for another shape or a value that is not finite."""
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    if queries.ndim != 2 or (dim is not None and queries.shape[1] != dim):
        raise ValueError(f"queries are of shape {queries.shape}, wanted (Q, {'D' if dim is None else dim})")
    if not np.isfinite(queries).all():
        bad = int(np.flatnonzero(~np.isfinite(queries).all(axis=1))[0])
        raise ValueError(f"query {bad} holds a NaN or an infinity")
    return queries


def part_offsets(parts: Sequence[np.ndarray]) -> np.ndarray:
    """int64 (parts + 1,): the first row of each part in the count over all parts; the last entry is the sum."""
    return np.cumsum([0, *(len(part) for part in parts)], dtype=np.int64)


def checked_parts(parts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The parts as a list; ValueError when they are not matrices of one width."""
    parts = list(parts)
    widths = {part.shape[1:] for part in parts}
    if len(widths) > 1 or any(len(width) != 1 for width in widths):
        raise ValueError(f"key parts are of shapes {[part.shape for part in parts]}, wanted (rows, D) with one D")
    return parts
