"""Inner products of chosen (query, row) pairs in float64, from the stored float16 vectors.

Equal rows get bit-equal scores wherever they stand: every product is summed by one loop over D (a matrix product is not
so, its edge columns take another kernel). Rows are read once per chunk, in ascending order, so memory stays bounded and
a memory map is read forwards.
"""

from collections.abc import Sequence

import numpy as np

from reactvl.search.hits import part_offsets

CHUNK_ROWS = 65_536
GATHER_VALUES = 1 << 24  # float32 values of gathered rows at a time: 64 MiB


def rescore(queries: np.ndarray, parts: Sequence[np.ndarray], query: np.ndarray, row: np.ndarray) -> np.ndarray:
    """float64 (n,): the inner product of `queries[query[i]]` (Q, D) and row `row[i]` of the parts, for every i."""
    scores = np.empty(len(row), dtype=np.float64)
    order = np.lexsort((query, row // CHUNK_ROWS))
    row_sorted = row[order]
    offsets = part_offsets(parts)
    dim = queries.shape[1]
    limit = max(1, GATHER_VALUES // max(dim, 1))
    chunk = row_sorted // CHUNK_ROWS
    edges = np.flatnonzero(np.diff(chunk, prepend=-1))
    for begin, end in zip(edges, [*edges[1:], len(order)], strict=True):
        for start in range(begin, end, limit):
            stop = min(start + limit, end)
            entries = order[start:stop]
            rows, place = np.unique(row[entries], return_inverse=True)
            keys = gather(parts, offsets, rows)
            scores[entries] = _products(queries, keys, query[entries], place)
    return scores


def gather(parts: Sequence[np.ndarray], offsets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """float32 (n, D): the rows (ascending, counted over all parts)."""
    import torch

    ends = np.searchsorted(rows, offsets)
    pieces = [
        torch.from_numpy(np.array(part[rows[begin:end] - first])).float().numpy()
        for part, first, begin, end in zip(parts, offsets[:-1], ends[:-1], ends[1:], strict=True)
        if end > begin
    ]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _products(queries: np.ndarray, keys: np.ndarray, query: np.ndarray, place: np.ndarray) -> np.ndarray:
    scores = np.empty(len(query), dtype=np.float64)
    order = np.argsort(query, kind="stable")
    query = query[order]
    edges = np.flatnonzero(np.diff(query, prepend=-1))
    for begin, end in zip(edges, [*edges[1:], len(order)], strict=True):
        entries = order[begin:end]
        asked = queries[query[begin]].astype(np.float64)
        scores[entries] = np.einsum("nd,d->n", keys[place[entries]].astype(np.float64), asked)
    return scores
