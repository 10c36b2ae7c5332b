"""Recall of an approximate search against exact truth, counted by score so that copies of a picture do not matter."""

import numpy as np

from reactvl.search.hits import Hits


def recall(found: Hits, truth: Hits, k: int) -> float:
    """Mean over queries of the share of the true top-`k` that was found.

    A found row counts when its score reaches that of the truth's k-th row: among equal vectors it does not matter which
    one is found. Both hits must be scored alike (re-scored from the stored vectors). 1.0 when there is nothing to find.
    """
    true_first, found_first = truth.bounds(), found.bounds()
    wanted = np.minimum(np.diff(true_first), k)
    some = np.flatnonzero(wanted)
    if not len(some):
        return 1.0
    edge = np.full(truth.queries, np.inf, dtype=np.float32)
    edge[some] = truth.score[true_first[some] + wanted[some] - 1]
    good = (found.rank < k) & (found.score >= edge[found.query])
    counts = np.add.reduceat(np.append(good, False), found_first[:-1]) if len(found) else np.zeros(truth.queries, int)
    counts = np.where(np.diff(found_first) > 0, counts, 0)
    return float(np.mean(np.minimum(counts[some], wanted[some]) / wanted[some]))


def without_own(hits: Hits, own: np.ndarray, k: int) -> Hits:
    """Hits less the row that each query itself is (`own`, int64 (Q,)), cut to `k`: for queries taken from the keys."""
    kept = hits.row != own[hits.query]
    query = hits.query[kept]
    first = np.searchsorted(query, np.arange(hits.queries + 1))
    rank = (np.arange(len(query)) - first[query]).astype(np.int32)
    short = rank < k
    return Hits(query[short], hits.row[kept][short], hits.score[kept][short], rank[short], hits.queries, hits.unfit)
