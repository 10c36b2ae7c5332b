"""Recall of an approximate search against exact truth, counted by score so that copies of a picture do not matter."""

import numpy as np

from reactvl.search.hits import Hits


def recall(found: Hits, truth: Hits, k: int) -> float:
    """Mean over queries of the share of the true top-`k` that was found; 1.0 when there is nothing to find."""
    each = recalls(found, truth, k)
    some = each[~np.isnan(each)]
    return float(some.mean()) if len(some) else 1.0


def recalls(found: Hits, truth: Hits, k: int) -> np.ndarray:
    """float64 (queries,): the share of each query's true top-`k` that was found; NaN where there is nothing to find.

    A found row counts when its score reaches that of the truth's k-th row: among equal vectors it does not matter which
    one is found. Both hits must be scored alike (re-scored from the stored vectors).
    """
    edge, wanted = edges(truth, k)
    good = (found.rank < k) & (found.score >= edge[found.query])
    counts = np.bincount(found.query[good], minlength=truth.queries)
    with np.errstate(invalid="ignore"):
        return np.minimum(counts, wanted) / np.where(wanted > 0, wanted, np.nan)


def edges(truth: Hits, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(float32 (queries,) score of each query's k-th true row, int64 (queries,) how many there are to find)."""
    first = truth.bounds()
    wanted = np.minimum(np.diff(first), k)
    some = np.flatnonzero(wanted)
    edge = np.full(truth.queries, np.inf, dtype=np.float32)
    edge[some] = truth.score[first[some] + wanted[some] - 1]
    return edge, wanted


def lower_bound(each: np.ndarray, group: np.ndarray, *, quantile: float = 1.645) -> float:
    """A value that the mean of such queries' recalls exceeds in 19 of 20 drawings of groups (a normal's 5th percentile).

    each: float64 (Q,), NaNs left out; group: int64 (Q,), queries of one class share one: they succeed and fail together.
    """
    known = ~np.isnan(each)
    if not known.any():
        return 1.0
    _, member = np.unique(group[known], return_inverse=True)
    sizes = np.bincount(member)
    residuals = np.bincount(member, weights=each[known] - each[known].mean())
    count = len(sizes)
    spread = np.sqrt((residuals**2).sum() * count / max(count - 1, 1)) / sizes.sum()
    return float(each[known].mean() - quantile * spread)


def without_own(hits: Hits, own: np.ndarray, k: int) -> Hits:
    """Hits less the row that each query itself is (`own`, int64 (Q,)), cut to `k`: for queries taken from the keys."""
    kept = hits.row != own[hits.query]
    query = hits.query[kept]
    first = np.searchsorted(query, np.arange(hits.queries + 1))
    rank = (np.arange(len(query)) - first[query]).astype(np.int32)
    short = rank < k
    return Hits(query[short], hits.row[kept][short], hits.score[kept][short], rank[short], hits.queries, hits.unfit)
