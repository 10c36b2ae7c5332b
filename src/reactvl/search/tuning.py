"""How wide an index must search (nprobe of inverted lists, efSearch of HNSW) to find a wanted share of the true
top-k."""

from dataclasses import dataclass

import numpy as np

from reactvl.search.hits import Hits
from reactvl.search.index import search
from reactvl.search.recall import recall

WIDEST_EF = 8192


@dataclass(frozen=True)
class Setting:
    """A search setting, as left in the index: its name ("nprobe", "efSearch" or "exact"), value, and recall
    measured."""

    name: str
    value: int
    recall: float


def tune(
    index, queries: np.ndarray, parts: list[np.ndarray], truth: Hits, k: int, wanted: float, *, trim=None
) -> Setting:
    """Leave in `index` the narrowest setting whose recall@k on the queries reaches `wanted`; the widest when none does.

    queries: float32 (Q, D); truth: their exact top-k. trim: applied to what is found before it is compared (for queries
    that are keys themselves: drops their own rows). A flat index has nothing to set.
    """

    def measured(value: int) -> float:
        apply(index, name, value)
        found = search(index, queries, parts, k if trim is None else k + 1)
        return recall(found if trim is None else trim(found), truth, k)

    name, widest = knob(index)
    if name == "exact":
        return Setting(name, 0, measured(0))
    low, value = 0, min(widest, 1 if name == "nprobe" else 16)
    reached = measured(value)
    while reached < wanted and value < widest:
        low, value = value, min(2 * value, widest)
        reached = measured(value)
    while reached >= wanted and value - low > max(
        1, low // 8
    ):  # between the last that fell short and the first that did not
        middle = (low + value) // 2
        at_middle = measured(middle)
        if at_middle >= wanted:
            value, reached = middle, at_middle
        else:
            low = middle
    apply(index, name, value)
    return Setting(name, value, reached)


def knob(index) -> tuple[str, int]:
    """Name and widest value of an index's search setting."""
    import faiss

    if isinstance(index, faiss.IndexHNSW):
        return "efSearch", min(index.ntotal, WIDEST_EF)
    if isinstance(index, faiss.IndexIVF):
        return "nprobe", index.nlist
    return "exact", 0


def apply(index, name: str, value: int) -> None:
    """Set the index's search setting; it is saved with the index."""
    if name == "efSearch":
        index.hnsw.efSearch = value
    elif name == "nprobe":
        index.nprobe = value
