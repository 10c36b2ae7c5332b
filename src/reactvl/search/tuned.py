"""An index tuned on one half of the queries and measured with the other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reactvl.search.asking import Queries, of_queries
from reactvl.search.exact import top_k
from reactvl.search.index import search
from reactvl.search.recall import recalls, without_own
from reactvl.search.tuning import Setting, tune

RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Tuned:
    """The setting, the recall at each depth (1, 10, k) of the measuring queries with its 95% interval, and key rows that are
    not finite."""

    setting: Setting
    k: int
    recall_at: dict[int, float]
    interval_at: dict[int, tuple[float, float]]
    unfit: int

    @property
    def recall(self) -> float:
        return self.recall_at[self.k]


def tuned(
    index,
    queries: Queries,
    parts: Sequence[np.ndarray],
    k: int,
    wanted: float,
    *,
    seed: int = 0,
    width: int | None = None,
    refine: float | None = None,
    advance=None,
) -> Tuned:
    """Tune an index to recall@k and measure it at 1, 10 and k, against exact search. advance: called with rows scanned."""
    rows = sum(map(len, parts))
    own = queries.own
    k = min(k, rows if own is None else max(1, rows - 1))
    truth = top_k(queries.vectors, parts, k + (own is not None), advance=advance)
    first, second = queries.of(0), queries.of(1)

    def trimmed(hits, places):
        return hits if own is None else without_own(hits, own[places], k)

    setting = tune(
        index,
        queries.vectors[first],
        parts,
        trimmed(of_queries(truth, first), first),
        k,
        wanted,
        group=queries.group[first],
        own=None if own is None else own[first],
        width=width,
        refine=refine,
    )
    depth = k + (own is not None)
    found = search(index, queries.vectors[second], parts, depth, width=setting.value or None, refine=setting.refine)
    found, true = trimmed(found, second), trimmed(of_queries(truth, second), second)
    recall_at, interval_at = {}, {}
    for depth in sorted({min(depth, k) for depth in (1, 10, k)}):
        each = recalls(found, true, depth)
        known = ~np.isnan(each)
        recall_at[depth] = float(each[known].mean()) if known.any() else 1.0
        interval_at[depth] = interval(each[known], queries.group[second][known], seed)
    return Tuned(setting, k, recall_at, interval_at, truth.unfit)


def interval(each: np.ndarray, group: np.ndarray, seed: int) -> tuple[float, float]:
    """Bootstrap percentile interval (95%) of the mean of `each`, groups drawn with replacement; of a single group, queries."""
    if not len(each):
        return 1.0, 1.0
    _, member = np.unique(group, return_inverse=True)
    if member.max() == 0:
        member = np.arange(len(each))
    sums, sizes = np.bincount(member, weights=each), np.bincount(member).astype(np.float64)
    generator = np.random.default_rng([seed, 5])
    means = np.empty(RESAMPLES)
    for at in range(0, RESAMPLES, 200):
        times = generator.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=200)
        means[at : at + 200] = (times @ sums) / (times @ sizes)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
