"""How many pairs of a pool lie above a similarity: counted where the search is exact, else estimated from a sample."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from reactvl.search.rescore import rescore
from reactvl.serve.asking import Above, Counted
from reactvl.serve.sides import Side

BLOCK = 8192  # rows whose similarities are computed at once: 16 MiB of float32
FINE = 4000  # bins between -1 and 1 that are counted; what is shown is made of them
SHOWN = 80  # bins that are shown, at most
ROUNDING = (
    2.0**-23
)  # of a float32 product, for each dimension and unit of the lengths: twice the bound of any order of sums
SAMPLE = 65_536  # rows that an estimate looks at: 64 MiB of 512 dimensions, kept
LEVEL = 0.95


@dataclass
class Tally:
    """What a pass over rows has counted: finite rows, the fine histogram, rows above each threshold."""

    rows: int
    fine: np.ndarray  # int64 (FINE,)
    above: np.ndarray  # int64 (thresholds,)

    def add(self, other: "Tally") -> None:
        self.rows += other.rows
        self.fine += other.fine
        self.above += other.above


def counted(side: Side, query: np.ndarray, thresholds: Sequence[float]) -> Counted:
    """One pass over all rows of a side. The counts at the thresholds are those of float64 arithmetic on the stored values;
    rows that are not finite count nowhere."""
    edges = np.asarray(thresholds, np.float64)
    query = query.astype(np.float32)
    total = none(len(edges))
    with ThreadPoolExecutor(thread_name_prefix="count") as threads:
        for tally in threads.map(lambda block: tallied(query, block, edges), blocks(side.parts)):
            total.add(tally)
    shown, counts = binned(total.fine)
    above = [Above(float(edge), n, n, n) for edge, n in zip(thresholds, total.above.tolist(), strict=True)]
    return Counted(total.rows, shown, counts, above, exact=True)


def of_scores(scores: np.ndarray, thresholds: Sequence[float]) -> Counted:
    """The same of similarities float64 (n,) that are known already; NaNs count nowhere."""
    scores = scores[np.isfinite(scores)]
    shown, counts = binned(histogram(scores))
    above = [Above(float(edge), *[int((scores >= edge).sum())] * 3) for edge in thresholds]
    return Counted(len(scores), shown, counts, above, exact=True)


def estimated(
    side: Side, query: np.ndarray, thresholds: Sequence[float], sample: np.ndarray, best: np.ndarray
) -> Counted:
    """An estimate from `sample` (`drawn`), and what the index found.

    best: the similarities of the nearest rows that the index finds, falling. A threshold above the last of them is counted
    among them, which so many pairs surely reach. Elsewhere the count is the sample's share of the pool, `interval` its
    interval, whose lower end is at least what the index found.
    """
    scores = np.concatenate([products(block, query.astype(np.float32))[1] for block in blocks([sample])])
    scores = scores[np.isfinite(scores)]
    size, rows = len(scores), side.rows
    shown, counts = binned(histogram(scores))
    above = []
    for edge in thresholds:
        reached, surely = int((scores >= edge).sum()), int((best >= np.float32(edge)).sum())
        low, high = interval(reached, size)
        high = max(round(high * rows), surely)
        if surely < len(best):  # the pairs that an index misses are the sample's to bound
            above.append(Above(float(edge), surely, surely, high))
        else:
            low = max(round(low * rows), surely)
            above.append(Above(float(edge), min(max(round(reached / max(size, 1) * rows), low), high), low, high))
    scaled = [round(count * rows / max(size, 1)) for count in counts]
    return Counted(rows, shown, scaled, above, exact=False)


def drawn(side: Side, seed: int = 0) -> np.ndarray:
    """(SAMPLE, D) rows of a side as they are stored: one drawn from each of as many equal stretches of the pool, so that
    they are spread evenly over it; all rows of a side that has no more."""
    from reactvl.search.rescore import gather_half

    if side.rows <= SAMPLE:
        chosen = np.arange(side.rows)
    else:
        edges = np.linspace(0, side.rows, SAMPLE + 1).astype(np.int64)
        chosen = np.random.default_rng([seed, 6]).integers(edges[:-1], edges[1:])
    return gather_half(side.parts, side.offsets, chosen)


def interval(hits: int, tries: int) -> tuple[float, float]:
    """The 95% interval of a share of which `hits` of `tries` were seen: Clopper and Pearson's (1934), which holds the truth
    at least that often, however small the share."""
    from scipy.special import betaincinv

    tail = (1 - LEVEL) / 2
    low = float(betaincinv(hits, tries - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, tries - hits, 1 - tail)) if hits < tries else 1.0
    return low, high


def blocks(parts: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """The rows of all parts in their order, views of at most BLOCK."""
    for part in parts:
        for first in range(0, len(part), BLOCK):
            yield part[first : first + BLOCK]


def tallied(query: np.ndarray, rows: np.ndarray, edges: np.ndarray) -> Tally:
    """The tally of some rows; those too near a threshold for float32 are computed in float64."""
    values, scores = products(rows, query)
    fit = np.flatnonzero(np.isfinite(scores))
    scores = scores[fit]
    above = np.zeros(len(edges), np.int64)
    if len(edges) and len(fit):
        lengths = np.sqrt(np.einsum("nd,nd->n", values, values)[fit])
        room = ROUNDING * len(query) * (lengths * np.linalg.norm(query) + 1e-30)
        for number, edge in enumerate(edges):
            sure = scores >= edge + room
            near = np.flatnonzero(~sure & (scores >= edge - room))
            exact = rescore(query[None], [rows], np.zeros(len(near), np.int64), fit[near])
            above[number] = int(sure.sum()) + int((exact >= edge).sum())
    return Tally(len(fit), histogram(scores), above)


def products(rows: np.ndarray, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the rows as float32 (n, D), their float32 products with the query (n,)). torch widens halves ten times as fast."""
    import torch

    values = torch.from_numpy(np.array(rows)).float().numpy()
    return values, values @ query


def none(thresholds: int) -> Tally:
    return Tally(0, np.zeros(FINE, np.int64), np.zeros(thresholds, np.int64))


def histogram(scores: np.ndarray) -> np.ndarray:
    """int64 (FINE,): scores by bins of equal width between -1 and 1; what rounding puts beyond falls into the last."""
    place = np.clip((scores.astype(np.float64) + 1) * (FINE / 2), 0, FINE - 1).astype(np.int64)
    return np.bincount(place, minlength=FINE)


def binned(fine: np.ndarray) -> tuple[list[float], list[int]]:
    """(edges, counts) of the bins that hold something, joined to at most SHOWN of equal width."""
    held = np.flatnonzero(fine)
    if not len(held):
        return [-1.0, 1.0], [0]
    first, last = int(held[0]), int(held[-1]) + 1
    width = -(-(last - first) // SHOWN)
    starts = np.arange(first, last, width)
    counts = np.add.reduceat(fine[: min(FINE, int(starts[-1]) + width)], starts)
    edges = np.append(starts, starts[-1] + width) * (2 / FINE) - 1
    return [round(float(edge), 6) for edge in edges], counts.tolist()
