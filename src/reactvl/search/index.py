"""FAISS indexes over float16 matrices: flat, inverted lists, HNSW; built with a seed, searched with re-ranking.

Vectors are kept in float16 (FAISS's scalar quantizer without residuals: lossless here) but in a flat index, whose
float32 goes through BLAS. What an index finds is re-scored in float64 from the stored vectors, so its scores and order
are those of exact search on the rows it found, and FAISS's -1 ("nothing found") never leaves this file.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from reactvl.manifest import ReactvlError, replacing
from reactvl.search.hits import Hits, checked_parts, checked_queries, ordered, part_offsets
from reactvl.search.rescore import gather, rescore

KINDS = ("flat", "ivf", "hnsw")
ADD_ROWS = 65_536
HNSW_LINKS = 32
HNSW_EF_CONSTRUCTION = 200
TRAIN_PER_LIST = 64  # FAISS's k-means warns under 39 and samples down over 256


def build(
    parts: Sequence[np.ndarray],
    kind: str,
    *,
    seed: int = 0,
    threads: int = 1,
    advance: Callable[[int], None] | None = None,
):
    """A faiss index (inner product) of all rows of the parts, ids = rows counted over the parts.

    parts: float16 (rows, D). A row with a NaN or an infinity is added as zeros, and never found (search re-scores). The
    same rows, seed and threads give the same index; for HNSW only with `threads=1`. advance: called with rows just
    added. Raises ReactvlError when there are no rows, ValueError for another kind.
    """
    parts = checked_parts(parts)
    rows = int(part_offsets(parts)[-1])
    if not rows:
        raise ReactvlError("there are no vectors to index")
    with omp_threads(threads):
        index = _empty(kind, parts[0].shape[1], rows, seed)
        if kind == "ivf":
            index.train(training_sample(parts, min(rows, TRAIN_PER_LIST * index.nlist), seed))
        for part in parts:
            for first in range(0, len(part), ADD_ROWS):
                block = finite(part[first : first + ADD_ROWS])
                index.add(block)
                if advance:
                    advance(len(block))
    return index


def _empty(kind: str, dim: int, rows: int, seed: int):
    import faiss

    metric, half = faiss.METRIC_INNER_PRODUCT, faiss.ScalarQuantizer.QT_fp16
    if kind == "flat":
        return faiss.IndexFlatIP(dim)
    if kind == "ivf":
        lists = lists_for(rows)
        quantizer = faiss.IndexFlatIP(dim)
        index = faiss.IndexIVFScalarQuantizer(quantizer, dim, lists, half, metric, False)
        index.own_fields = True
        quantizer.this.disown()
        index.cp.seed = seed + 1  # 0 would mean the clock to some FAISS versions
        index.cp.spherical = True  # the centroids of unit vectors are directions
        return index
    if kind == "hnsw":
        index = faiss.IndexHNSWSQ(dim, half, HNSW_LINKS, metric)
        index.hnsw.efConstruction = HNSW_EF_CONSTRUCTION
        index.hnsw.rng = faiss.RandomGenerator(seed + 12345)
        index.train(np.zeros((1, dim), dtype=np.float32))  # float16 has nothing to learn; FAISS wants the call
        return index
    raise ValueError(f"index kind {kind!r}: choose one of {', '.join(KINDS)}")


def lists_for(rows: int) -> int:
    """How many inverted lists: 4 sqrt(rows) as FAISS advises under a million rows, at most a 39th of the rows."""
    return max(1, min(int(4 * rows**0.5), rows // 39))


def training_sample(parts: Sequence[np.ndarray], rows: int, seed: int) -> np.ndarray:
    """float32 (rows, D): rows drawn without repetition from all parts by the seed, in ascending order."""
    offsets = part_offsets(parts)
    chosen = np.sort(np.random.default_rng(seed).choice(int(offsets[-1]), size=rows, replace=False))
    return finite(gather(parts, offsets, chosen))


def finite(rows: np.ndarray) -> np.ndarray:
    """float32 rows, those with a NaN or an infinity as zeros."""
    rows = np.asarray(rows).astype(np.float32)
    rows[~np.isfinite(rows).all(axis=1)] = 0
    return rows


def search(index, queries: np.ndarray, parts: Sequence[np.ndarray], k: int) -> Hits:
    """The `k` best rows of each query that the index finds, re-scored from the parts' float16 vectors.

    queries: float32 (Q, D). A query may find fewer than `k` rows. Raises ValueError for shapes that do not fit and
    ReactvlError when the index holds another number of rows than the parts.
    """
    queries = checked_queries(queries, index.d)
    parts = checked_parts(parts)
    if index.ntotal != int(part_offsets(parts)[-1]):
        raise ReactvlError(
            f"the index holds {index.ntotal:,} rows, the embeddings {part_offsets(parts)[-1]:,}: index them again"
        )
    k = min(k, index.ntotal)
    _, ids = index.search(queries, k)  # (Q, k)
    query, column = np.nonzero(ids >= 0)
    row = ids[query, column]
    score = rescore(queries, parts, query, row)
    fit = np.isfinite(score)
    return ordered(query[fit], row[fit], score[fit], len(queries), k)


def save(index, path: Path | str) -> None:
    """Write the index whole or not at all, its search setting (nprobe, efSearch) with it."""
    import faiss

    with replacing(path) as part:
        faiss.write_index(index, str(part))


def load(path: Path | str):
    """The index of a file; ReactvlError when it is missing or not FAISS's."""
    import faiss

    if not Path(path).is_file():
        raise ReactvlError(f"{path}: no such index file")
    try:
        return faiss.read_index(str(path))
    except RuntimeError as fault:
        reason = str(fault).splitlines()[0]
        raise ReactvlError(f"{path}: FAISS cannot read it ({reason})") from None


@contextlib.contextmanager
def omp_threads(threads: int) -> Iterator[None]:
    """FAISS's thread count for a while."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
