"""Queries to tune an index on, and others to measure it with: task prompts, captions, or the keys themselves."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reactvl.search.building import finite
from reactvl.search.hits import Hits, part_offsets
from reactvl.search.rescore import gather


@dataclass(frozen=True)
class Queries:
    """`vectors` float32 (n, D). `half` int8 (n,): 0 tunes, 1 measures. `group` int64 (n,): queries of one class share one,
    and lie in one half. `own` int64 (n,): the key row that a query itself is, or None. `source`: "prompts", "captions" or
    "images"."""

    vectors: np.ndarray
    half: np.ndarray
    group: np.ndarray
    own: np.ndarray | None
    source: str

    def of(self, half: int) -> np.ndarray:
        """The places of one half; of a single query, that one in both."""
        return np.flatnonzero(self.half == half) if len(self.vectors) > 1 else np.arange(len(self.vectors))


def sampled(parts: Sequence[np.ndarray], count: int, seed: int, *, source: str, keys: bool) -> Queries:
    """Twice `count` rows of the parts (or all), drawn by the seed, every other one to measure with.

    keys: the rows are the very keys that will be searched, so that each would find itself.
    """
    offsets = part_offsets(parts)
    rows = np.random.default_rng([seed, 1]).permutation(int(offsets[-1]))[: 2 * count]
    ascending = np.sort(rows)
    vectors = finite(gather(parts, offsets, ascending))[np.searchsorted(ascending, rows)]
    places = np.arange(len(rows))
    return Queries(vectors, (places % 2).astype(np.int8), places, rows if keys else None, source)


def halves(group: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(chosen int64 (n,), half int8 (n,)): at most `count` queries for each half, no group in both.

    group: int64 (N,), the class of each query that there is. The classes are parted by the seed; of a single class, its
    queries are. Chosen ones stay in order.
    """
    generator = np.random.default_rng([seed, 2])
    names = generator.permutation(np.unique(group))
    if len(names) > 1:
        side = np.isin(group, names[1::2]).astype(np.int8)
    else:
        side = (generator.permutation(len(group)) % 2).astype(np.int8)
    chosen = np.sort(
        np.concatenate([generator.permutation(np.flatnonzero(side == half))[:count] for half in (0, 1)]).astype(
            np.int64
        )
    )
    return chosen, side[chosen]


def of_queries(hits: Hits, chosen: np.ndarray) -> Hits:
    """The hits of some queries, numbered anew in the order of `chosen` (ascending)."""
    kept = np.isin(hits.query, chosen)
    query = np.searchsorted(chosen, hits.query[kept]).astype(np.int32)
    return Hits(query, hits.row[kept], hits.score[kept], hits.rank[kept], len(chosen), hits.unfit)
