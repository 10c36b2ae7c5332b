"""One ranking of what several modes found for a class.

zscore          the modes' z-scores joined as the length of their vector (scoring.py); the default
union           a pair is as good as its best rank in any mode
rrf             reciprocal rank fusion, the sum of 1 / (60 + rank) over the modes (Cormack et al., SIGIR 2009)
match-rerank    captions that hold the name, ranked by how well their pictures fit the class

A rank is a pair's place, 1 for the best, among the rows that a mode found for a class: by similarity to the class's mean
query in that mode, for `match` by the share of the caption that the name makes up. So the raw scores of two modes are
never compared, nor added.
"""

from collections.abc import Mapping

import numpy as np

FUSIONS = ("zscore", "union", "rrf", "match-rerank")
RRF_K = 60


def ranks(name: np.ndarray, row: np.ndarray, strength: np.ndarray, found: np.ndarray) -> np.ndarray:
    """int64 (n,): each pair's rank (from 1) in its name's list of one mode, by falling strength, ties by the lower row; 0
    where the mode did not find it (`found` bool). name, row: int64; strength: float64, of use only where found."""
    place = np.flatnonzero(found)
    place = place[np.lexsort((row[place], -strength[place], name[place]))]
    names = name[place]
    first = np.searchsorted(names, names)
    rank = np.zeros(len(name), dtype=np.int64)
    rank[place] = np.arange(len(place)) - first + 1
    return rank


def fused(fusion: str, ranks_of_modes: Mapping[str, np.ndarray]) -> np.ndarray:
    """float64 (n,): the score by ranks (0 is "not found") under "union" or "rrf"; larger is better, 0 for what no mode
    found."""
    every = list(ranks_of_modes.values())
    if fusion == "union":
        best = np.minimum.reduce([np.where(rank > 0, rank.astype(np.float64), np.inf) for rank in every])
        return 1.0 / best
    if fusion == "rrf":
        return np.sum([np.where(rank > 0, 1.0 / (RRF_K + rank), 0.0) for rank in every], axis=0)
    raise ValueError(f"fusion {fusion!r} is not by ranks: choose union or rrf")
