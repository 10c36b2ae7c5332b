"""Kinds of FAISS index: what each weighs, and which fits a memory budget.

A kind is a name for a factory string (https://github.com/facebookresearch/faiss/wiki/The-index-factory). Rows are float16,
so that FAISS's 16-bit scalar quantizer keeps them whole, in half of float32's memory: `ivf-flat` and `hnsw` hold them so.
Coarser codes (8 bits, 4 bits, 1 bit a dimension) pick candidates that are re-ranked from the rows on disk.
"""

import math
import re
from dataclasses import dataclass

from reactvl.manifest import ReactvlError

NAMED = ("flat", "ivf-flat", "ivf-sq8", "hnsw")
SMALLER = ("IVF{lists},SQ4", "IVF{lists},RaBitQ")  # what `auto` falls back to, by falling size
HNSW_LINKS = 32
FEW_ROWS = 20_000  # a scan of so many float32 rows of 512 takes under 5 ms of one core
ROWS_PER_LIST = 39  # FAISS's own least for k-means
MANY_LISTS = (
    32_768  # from here on lists are found through a graph: comparing with every centroid costs more than the scan
)


@dataclass(frozen=True)
class Choice:
    """A kind, its factory string, the bytes it will take for the rows asked about, and why it was chosen."""

    kind: str
    factory: str
    size: int
    why: str


def choose(kind: str, rows: int, dim: int, *, memory: int | None = None, recall: float = 0.98) -> Choice:
    """The index to build for `rows` vectors of `dim` dimensions in at most `memory` bytes (None: no limit).

    kind: "auto", one of NAMED, or a factory string. `auto` takes a flat index for few rows or a recall of 1, else inverted
    lists with the finest codes that fit: re-ranked, they reach any recall, and on text queries sooner than HNSW in a quarter
    of its memory. Raises ReactvlError for a factory string that FAISS does not know for inner products, and for a budget
    that the kind (or, for "auto", every kind) exceeds, with what is possible.
    """
    sizes = {name: size_of(factory_of(name, rows), rows, dim) for name in (*NAMED, *SMALLER)}
    if kind != "auto":
        factory = factory_of(kind, rows)
        size = sizes[kind] if kind in sizes else size_of(factory, rows, dim)
        if memory is not None and size > memory:
            raise ReactvlError(f"--kind {kind}: {too_large(size, rows, memory)}; {possible(sizes, rows, memory)}")
        return Choice(kind, factory, size, "as asked")
    order = ["ivf-sq8", *SMALLER]
    why = "inverted lists over 8-bit codes, re-ranked: the fastest for its recall on text queries"
    if rows <= FEW_ROWS or recall >= 1:
        order.insert(0, "flat")
    for name in order:
        if memory is None or sizes[name] <= memory:
            if name == "flat":
                why = "every row is compared: exact" + (", and quick for so few" if rows <= FEW_ROWS else "")
            elif name in SMALLER:
                why = "the finest codes that fit the memory, re-ranked"
            return Choice(name if name in NAMED else factory_of(name, rows), factory_of(name, rows), sizes[name], why)
    least = min(sizes.values())
    raise ReactvlError(f"--memory: {too_large(least, rows, memory)} at the least; {possible(sizes, rows, memory)}")


def too_large(size: int, rows: int, memory: int) -> str:
    return f"an index of {rows:,} vectors takes {shown(size)}, over the {shown(memory)} of --memory"


def possible(sizes: dict[str, int], rows: int, memory: int) -> str:
    """The kinds by size, a word each: an error is one line."""
    table = ", ".join(
        f"{factory_of(name, rows) if name in SMALLER else name} {shown(size)} ({size / rows:,.0f} bytes a vector)"
        for name, size in sorted(sizes.items(), key=lambda entry: entry[1])
    )
    fits = [name for name, size in sizes.items() if size <= memory]
    return f"possible are {table}" + ("" if fits else "; give more memory, or leave --memory out")


def factory_of(kind: str, rows: int) -> str:
    """The factory string of a kind for so many rows; a factory string stays what it is."""
    lists = lists_for(rows)
    coarse = f"{lists}_HNSW{HNSW_LINKS}" if lists >= MANY_LISTS else str(lists)
    return {
        "flat": "Flat",
        "ivf-flat": f"IVF{coarse},SQfp16",
        "ivf-sq8": f"IVF{coarse},SQ8",
        "hnsw": f"HNSW{HNSW_LINKS},SQfp16",
    }.get(kind, kind).replace("{lists}", coarse)


def lists_for(rows: int) -> int:
    """How many inverted lists: 4 sqrt(rows), as FAISS advises, at most a 39th of the rows."""
    return max(1, min(int(4 * rows**0.5), rows // ROWS_PER_LIST))


def empty(factory: str, dim: int):
    """The untrained faiss index of a factory string, inner product; ReactvlError when FAISS refuses it."""
    import faiss

    try:
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except (RuntimeError, ValueError) as fault:
        reason = str(fault).strip().splitlines()[0].split(": ")[-1]
        raise ReactvlError(
            f"--kind {factory}: FAISS makes no such index for {dim} dimensions and inner products ({reason}); use auto, "
            f"{', '.join(NAMED)}, or a factory string such as IVF4096,SQ8"
        ) from None
    lists = faiss.try_extract_index_ivf(index)
    if lists is not None and holds_halves(lists):
        lists.by_residual = False  # then the 16 bits hold the rows themselves, whole
    return index


def holds_halves(index) -> bool:
    """Does its scalar quantizer keep float16?"""
    import faiss

    return hasattr(index, "sq") and index.sq.qtype == faiss.ScalarQuantizer.QT_fp16


def size_of(factory: str, rows: int, dim: int) -> int:
    """Bytes that the index of a factory string takes for so many rows, in memory as on disk (small tables aside)."""
    return math.ceil(rows * row_bytes(empty(factory, dim))) + fixed_bytes(factory, dim)


def row_bytes(index) -> float:
    """Bytes a vector takes in a faiss index: its code, its id where ids are kept, its share of a graph's links."""
    import faiss

    inner = faiss.downcast_index(index)  # a view: `index` owns it
    if isinstance(inner, faiss.IndexPreTransform):
        return row_bytes(inner.index)
    if isinstance(inner, faiss.IndexIDMap | faiss.IndexIDMap2):
        return row_bytes(inner.index) + 8
    if isinstance(inner, faiss.IndexRefine):
        return row_bytes(inner.base_index) + row_bytes(inner.refine_index)
    if isinstance(inner, faiss.IndexHNSW):
        links = inner.hnsw.nb_neighbors(
            1
        )  # an upper level holds half of the lowest level's links, for one row in `links`
        return row_bytes(inner.storage) + 4 * (inner.hnsw.nb_neighbors(0) + links / max(links - 1, 1)) + 12
    code = getattr(inner, "code_size", 4 * inner.d)
    return code + 8 if isinstance(inner, faiss.IndexIVF) else code


def fixed_bytes(factory: str, dim: int) -> int:
    """Bytes that do not grow with the rows: the centroids of the lists."""
    lists = re.search(r"IVF(\d+)", factory)
    graph = 4 * (2 * HNSW_LINKS + 4) if "_HNSW" in factory else 0
    return int(lists[1]) * (4 * dim + graph + 8) if lists else 0


def bytes_of(text: str) -> int:
    """Bytes of a size such as 2GB, 500MB, 512MiB or 4096; ReactvlError for anything else."""
    given = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", str(text).lower())
    if not given or (given[3] and not given[2]) or not float(given[1]):
        raise ReactvlError(f"--memory {text}: is no size; write it as 2GB, 500MB or 512MiB")
    return int(float(given[1]) * (1024 if given[3] else 1000) ** " kmgt".index(given[2] or " "))


def shown(size: int) -> str:
    """A size as people write it: 528 MB."""
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= step:
            return f"{size / step:.{1 if size < 10 * step else 0}f} {unit}"
    return f"{size} bytes"
