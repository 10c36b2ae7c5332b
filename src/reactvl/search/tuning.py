"""How wide an index must search, and how many candidates it must give, to find a wanted share of the true top-k.

Width (nprobe, efSearch) and refine factor are chosen together: of the pairs that reach the recall, the one of least work.
Work is counted, not timed, so that the same vectors and queries always choose the same setting; what a visited code and a
re-scored row cost was measured (below), and only their ratio matters.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reactvl.search.hits import Hits
from reactvl.search.index import candidates, checked_rows
from reactvl.search.knobs import knob, refine_factors, unwrapped
from reactvl.search.recall import edges, lower_bound
from reactvl.search.rescore import rescore

# Nanoseconds of one core of an EPYC with AVX512: IVF scans of 72-, 256-, 512- and 1,024-byte codes took 18 to 45 ns a code,
# re-scoring a row of 512 from a warm map 600 to 1,000 ns (gathered, converted, summed in float64, sorted).
VISIT_NS, BYTE_NS = 18.0, 0.03
HOP_NS = 120.0  # a graph's rows lie anywhere in memory
RESCORE_NS = 1.5  # for each dimension


@dataclass(frozen=True)
class Setting:
    """How to search an index: the name of its knob ("nprobe", "efSearch" or "exhaustive"), its value, the candidates taken for
    each row wanted, and the recall of the queries it was tuned on."""

    name: str
    value: int
    refine: float
    recall: float


def tune(
    index,
    queries: np.ndarray,
    parts: Sequence[np.ndarray],
    truth: Hits,
    k: int,
    wanted: float,
    *,
    group: np.ndarray | None = None,
    own: np.ndarray | None = None,
    width: int | None = None,
    refine: float | None = None,
) -> Setting:
    """The setting of least work whose recall@k on the queries surely reaches `wanted`; the widest when none does.

    queries: float32 (Q, D); truth: their exact top-k. Surely: the lower bound of the mean (`recall.lower_bound`) does, with
    queries of one `group` (int64 (Q,), default each its own) counted as one. own: for queries that are keys themselves,
    the row each is, which does not count as found. width, refine: given, not tuned.
    """
    name, widest = knob(index)
    rows = checked_rows(index, parts)
    group = np.arange(len(queries)) if group is None else group
    factors = refine_factors(index) if refine is None else (max(1.0, refine),)
    trial = Trial(index, queries, parts, truth, k, factors, group, own, rows)
    if name == "exhaustive" or width is not None:
        value = 0 if name == "exhaustive" else max(1, min(width, widest))
        reached = [factor for factor in factors if trial.lower(value, factor) >= wanted]
        return trial.setting(name, value, reached[0] if reached else factors[-1])
    found = []
    start = min(widest, 1 if name == "nprobe" else max(16, min(k, widest)))
    for factor in reversed(factors):  # the largest needs the least width
        value = _least(lambda value, factor=factor: trial.lower(value, factor) >= wanted, start, widest)
        if value is None:
            break  # a smaller one needs more
        found.append((work(index, value, k * factor), factor, value))
        start = value
    if not found:
        return trial.setting(name, widest, factors[-1])
    _, factor, value = min(found)
    return trial.setting(name, value, factor)


def _least(reaches, start: int, widest: int) -> int | None:
    """The least value, to an eighth, from `start` on that reaches; None when the widest does not."""
    low, value = start - 1, start
    while not reaches(value):
        if value >= widest:
            return None
        low, value = value, min(2 * value, widest)
    while value - low > max(1, low // 8):  # between the last that fell short and the first that did not
        middle = (low + value) // 2
        if reaches(middle):
            value = middle
        else:
            low = middle
    return value


def work(index, value: int, taken: float) -> float:
    """Nanoseconds, about, of one query at a width with `taken` candidates re-scored."""
    inner = unwrapped(index)
    rescored = RESCORE_NS * index.d * taken
    if hasattr(inner, "nlist"):
        visited = inner.ntotal * value / inner.nlist
        return rescored + visited * (VISIT_NS + BYTE_NS * inner.code_size)
    visited = max(value, taken) * (inner.hnsw.nb_neighbors(0) / 2 if hasattr(inner, "hnsw") else 1)
    return rescored + visited * HOP_NS


class Trial:
    """Searches of the tuning queries, each width once: the candidates of a smaller factor are the first of a larger's."""

    def __init__(self, index, queries, parts, truth: Hits, k: int, factors, group, own, rows: int):
        self.index, self.queries, self.parts, self.k = index, queries, parts, k
        self.factors, self.group, self.own, self.rows = factors, group, own, rows
        self.edge, self.wanted = edges(truth, k)
        self.seen: dict[int, np.ndarray] = {}

    def lower(self, value: int, factor: float) -> float:
        return lower_bound(self.recalls(value)[self.factors.index(factor)], self.group)

    def setting(self, name: str, value: int, factor: float) -> Setting:
        each = self.recalls(value)[self.factors.index(factor)]
        known = each[~np.isnan(each)]
        return Setting(name, value, factor, float(known.mean()) if len(known) else 1.0)

    def recalls(self, value: int) -> np.ndarray:
        """float64 (factors, Q): each query's recall at a width, by factor."""
        if value not in self.seen:
            step = max(1, (1 << 20) // math.ceil((self.k + 1) * self.factors[-1]))
            pieces = [self._some(value, slice(at, at + step)) for at in range(0, len(self.queries), step)]
            self.seen[value] = np.concatenate(pieces, axis=1)
        return self.seen[value]

    def _some(self, value: int, some: slice) -> np.ndarray:
        queries, asked = self.queries[some], self.k + (self.own is not None)
        most = min(self.rows, math.ceil(asked * self.factors[-1]))
        ids, _ = candidates(self.index, queries, most, self.rows, value or None)
        there = ids >= 0
        if self.own is not None:
            there &= ids != self.own[some, None]
        query, _ = np.nonzero(there)
        good = np.zeros(ids.shape, dtype=bool)
        score = rescore(queries, self.parts, query, ids[there]).astype(np.float32)
        good[there] = score >= self.edge[some][query]
        count = np.cumsum(good, axis=1)
        wanted = self.wanted[some]
        taken = [min(most, math.ceil(asked * factor)) - 1 for factor in self.factors]
        with np.errstate(invalid="ignore"):
            return np.stack([np.minimum(count[:, at], wanted) / np.where(wanted > 0, wanted, np.nan) for at in taken])
