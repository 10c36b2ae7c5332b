"""Searching FAISS indexes: candidates from the index, scores from the stored rows.

An index picks `refine` times as many rows as asked for; they are re-scored in float64 from the float16 rows, so that scores
and order are those of exact search on the rows found, and FAISS's -1 ("nothing found") never leaves this file.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reactvl.manifest import ReactvlError, replacing
from reactvl.search.hits import Hits, checked_parts, checked_queries, ordered, part_offsets
from reactvl.search.knobs import parameters
from reactvl.search.rescore import rescore

BLOCK = 1 << 20  # found rows held at a time


def search(
    index,
    queries: np.ndarray,
    parts: Sequence[np.ndarray],
    k: int,
    *,
    width: int | None = None,
    refine: float = 1.0,
) -> Hits:
    """The `k` best rows of each query that the index finds, re-scored from the parts' vectors.

    queries: float32 (Q, D). width: how wide to search (nprobe or efSearch, whichever the index has; None: as set in it).
    refine: candidates taken for each row wanted, 1 or more. A query may find fewer than `k` rows. Raises ValueError for
    shapes that do not fit and ReactvlError when the index holds another number of rows than the parts.
    """
    parts = checked_parts(parts)
    queries = checked_queries(queries, index.d)
    rows = checked_rows(index, parts)
    if k < 1:
        raise ValueError(f"k is {k}, wanted 1 or more")
    k = min(k, rows)
    if not len(queries) or not rows:
        return ordered(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), len(queries), 1)
    taken = min(rows, math.ceil(k * max(refine, 1.0)))
    step = max(1, BLOCK // taken)
    pieces = [
        _best(
            queries[first : first + step],
            parts,
            k,
            candidates(index, queries[first : first + step], taken, rows, width),
        )
        for first in range(0, len(queries), step)
    ]
    return _joined(pieces, step, len(queries))


def candidates(index, queries: np.ndarray, taken: int, rows: int, width: int | None) -> tuple[np.ndarray, np.ndarray]:
    """(rows int64 (Q, taken), scores float32 (Q, taken)) as FAISS gives them, best first; -1 where it found nothing.

    ReactvlError for a number that is no row: an index of something else.
    """
    scores, ids = index.search(queries, taken, params=parameters(index, width, taken))
    if ids.size and ids.max() >= rows:
        raise ReactvlError(
            f"the index answers with id {int(ids.max()):,}, but there are {rows:,} rows: it is an index of other embeddings, "
            f"or its ids are not row numbers"
        )
    return ids, scores


def checked_rows(index, parts: Sequence[np.ndarray]) -> int:
    """How many rows the parts hold; ReactvlError when the index holds another number or its vectors are of other width."""
    rows = int(part_offsets(parts)[-1])
    if index.ntotal != rows:
        raise ReactvlError(f"the index holds {index.ntotal:,} rows, the embeddings {rows:,}: index them again")
    if parts and parts[0].shape[1] != index.d:
        raise ReactvlError(f"the index is of {index.d} dimensions, the embeddings of {parts[0].shape[1]}")
    return rows


def _best(queries: np.ndarray, parts, k: int, found: tuple[np.ndarray, np.ndarray]) -> Hits:
    """The best `k` of each query's candidates, by their rows' scores, ties by the lower row."""
    ids = np.sort(found[0], axis=1)
    there = ids >= 0
    there[:, 1:] &= ids[:, 1:] != ids[:, :-1]  # some graphs give a row twice
    query, _ = np.nonzero(there)
    exact = np.full(ids.shape, -np.inf)
    exact[there] = rescore(queries, parts, query, ids[there])
    exact[~np.isfinite(exact)] = -np.inf
    best = np.argsort(-exact, axis=1, kind="stable")[:, :k]  # ids ascend: equal scores stay in the order of their rows
    row, score = np.take_along_axis(ids, best, 1), np.take_along_axis(exact, best, 1)
    query, rank = np.nonzero(score > -np.inf)
    return Hits(
        query=query.astype(np.int32),
        row=row[query, rank],
        score=score[query, rank].astype(np.float32),
        rank=rank.astype(np.int32),
        queries=len(queries),
    )


def _joined(pieces: list[Hits], step: int, queries: int) -> Hits:
    columns = [
        np.concatenate(
            [getattr(piece, name) + (number * step if name == "query" else 0) for number, piece in enumerate(pieces)]
        )
        for name in ("query", "row", "score", "rank")
    ]
    return Hits(columns[0].astype(np.int32), *columns[1:], queries=queries)


def above(
    index,
    queries: np.ndarray,
    parts: Sequence[np.ndarray],
    threshold: float,
    *,
    width: int | None = None,
) -> Hits:
    """Every row that the index finds whose score reaches `threshold` (range search), best first.

    Codes are inexact: the index is asked for twice the error of its own scores, as seen on each query's nearest, below the
    threshold, and what it finds is re-scored from the rows. Rows in lists that the width leaves out stay unfound, as in any
    search. Raises ReactvlError for an index of another metric than the inner product.
    """
    import faiss

    parts = checked_parts(parts)
    queries = checked_queries(queries, index.d)
    rows = checked_rows(index, parts)
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise ReactvlError(
            "the index is of distances, not of inner products: ask it for the nearest, or build one here"
        )
    if not len(queries) or not rows:
        return ordered(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), len(queries), 1)
    slack = 1e-6 + 2 * _error(index, queries, parts, rows, width)
    try:
        edges, _, ids = index.range_search(queries, threshold - slack, params=parameters(index, width, 1))
    except RuntimeError as fault:
        reason = str(fault).strip().splitlines()[0].split(": ")[-1]
        raise ReactvlError(f"this kind of index has no range search in FAISS ({reason}); use exact search") from None
    query = np.repeat(np.arange(len(queries)), np.diff(edges.astype(np.int64)))
    there = (ids >= 0) & (ids < rows)
    query, ids = query[there], ids[there]
    score = rescore(queries, parts, query, ids)
    kept = np.isfinite(score) & (score.astype(np.float32) >= np.float32(threshold))
    return ordered(query[kept], ids[kept], score[kept], len(queries), max(rows, 1))


def _error(index, queries: np.ndarray, parts, rows: int, width: int | None) -> float:
    """The largest difference between the index's score of a row and the row's own, over the queries' nearest hundred."""
    largest = 0.0
    for first in range(0, len(queries), 1024):
        some = queries[first : first + 1024]
        ids, scores = candidates(index, some, min(rows, 100), rows, width)
        query, place = np.nonzero(ids >= 0)
        exact = rescore(some, parts, query, ids[query, place])
        fit = np.isfinite(exact)
        largest = max(largest, float(np.abs(scores[query, place] - exact)[fit].max(initial=0.0)))
    return largest


def save(index, path: Path | str) -> None:
    """Write the index whole or not at all, its search setting (nprobe, efSearch) with it."""
    import faiss

    with replacing(path) as part:
        faiss.write_index(index, str(part))


def load(path: Path | str, *, mapped: bool = False):
    """The index of a file; `mapped`: its codes stay on disk and are read as they are needed, for searching only.

    ReactvlError when the file is missing or not FAISS's. Kinds that FAISS cannot map are read.
    """
    import faiss

    if not Path(path).is_file():
        raise ReactvlError(f"{path}: no such index file")
    try:
        if mapped:
            try:
                return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
            except RuntimeError:
                return faiss.read_index(str(path))
        return faiss.read_index(str(path))
    except RuntimeError as fault:
        reason = str(fault).strip().splitlines()[0]
        raise ReactvlError(f"{path}: FAISS cannot read it ({reason})") from None
