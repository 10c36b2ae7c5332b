"""Inner products of chosen (query, row) pairs in float64, from the stored float16 vectors.

Equal rows get bit-equal scores wherever they stand: every product is summed by one loop over D (a matrix product is not
so, its edge columns take another kernel). Rows are read in ascending order, a few hundred at a time: what is read,
converted and multiplied stays in the core's cache.
"""

from collections.abc import Sequence

import numpy as np

from reactvl.search.hits import part_offsets

AT_ONCE = 1 << 17  # values of rows, and of queries, that are multiplied at once: 1 MB of float64


def rescore(
    queries: np.ndarray, parts: Sequence[np.ndarray], query: np.ndarray, row: np.ndarray, *, in_order: bool = False
) -> np.ndarray:
    """float64 (n,): the inner product of `queries[query[i]]` (Q, D) and row `row[i]` of the parts, for every i.

    in_order: the rows ascend already.
    """
    import torch

    scores = np.empty(len(row), dtype=np.float64)
    order = None if in_order else np.argsort(row, kind="stable")
    query, row = (query, row) if order is None else (query[order], row[order])
    offsets = part_offsets(parts)
    ends = np.searchsorted(row, offsets)
    step = max(16, AT_ONCE // max(queries.shape[1], 1))
    for part, first, begin, end in zip(
        parts, offsets[:-1].tolist(), ends[:-1].tolist(), ends[1:].tolist(), strict=True
    ):
        stored = np.asarray(part)
        for start in range(begin, end, step):
            stop = min(start + step, end)
            keys = torch.from_numpy(stored[row[start:stop] - first]).double().numpy()
            asked = queries[query[start:stop]].astype(np.float64)
            scores[start:stop] = np.einsum("nd,nd->n", keys, asked)
    if order is None:
        return scores
    placed = np.empty_like(scores)
    placed[order] = scores
    return placed


def gather(parts: Sequence[np.ndarray], offsets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """float32 (n, D): the rows (ascending, counted over all parts)."""
    import torch

    return torch.from_numpy(gather_half(parts, offsets, rows)).float().numpy()


def gather_half(parts: Sequence[np.ndarray], offsets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The rows (ascending, counted over all parts) as they are stored (n, D)."""
    ends = np.searchsorted(rows, offsets)
    pieces = [
        np.asarray(part)[rows[begin:end] - first]
        for part, first, begin, end in zip(parts, offsets[:-1], ends[:-1], ends[1:], strict=True)
        if end > begin
    ]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
