"""Exact top-k of queries against a pool of float16 vectors, streamed in bounded memory.

The result is that of float64 arithmetic on the stored values, ties broken by the lower row, whatever machine, thread
count or block size made it. A fast product (products.py) only *picks candidates*: a row is dropped when even with the
product's error bound it lies below k others. Candidates are re-scored in float64 from the float16 vectors. Should a
product break its bound on some machine, the candidates show it, and the search runs again through BLAS.

Where the time goes: the scores of a tile of 1024 queries x 1024 keys stay in the cache of the core that made them, so
that comparing them with the cutoffs and listing what lies above costs a tenth of the product. A cutoff guessed from a
sample of the pool keeps that list short from the first tile on; whether a guess was too high is proved at the end, and
the few queries for which it was are searched again without one.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from reactvl.search.candidates import BoundBroken, CandidateSearch
from reactvl.search.hits import Hits, checked_parts, checked_queries, ordered, part_offsets, ranked
from reactvl.search.products import Float32Product, choose, on_gpu
from reactvl.search.rescore import gather_half

QUERY_BLOCK = 1024  # queries that share cutoffs, candidates and tiles; at most 1024 (candidates.py packs it in 10 bits)
MEMORY = 80 << 20
FEW_MEMORY = 10 << 20  # the same for few queries, whose work is to read the keys: they stay in the cache
MANY = 128  # queries a core from which on cores share the keys and part the queries; below they part the keys
SAMPLE_FROM = 65_536  # rows of a pool from which on cutoffs are guessed


def top_k(
    queries: np.ndarray,
    parts: Sequence[np.ndarray],
    k: int,
    *,
    product: str = "auto",
    memory: int = MEMORY,
    advance: Callable[[int], None] | None = None,
    device: str = "cpu",
) -> Hits:
    """The `k` rows of largest inner product with each query.

    queries: float32 or float16 (Q, D), finite. parts: float16 matrices (rows, D), memory maps as a rule; they are read
    once in order and once more where candidates lie. A row with a NaN or an infinity is never found (`Hits.unfit`
    counts them); with fewer than `k` rows all are returned. product: "auto", "bf16", "fp32" or "blas". memory: bytes
    for one block of keys in all its forms; beyond it stand the queries, the answer itself and at most some four times
    as many candidates of 8 bytes. advance: called with the number of rows just scanned. device: "cpu" (all its cores),
    or "cuda", "cuda:N", where products and comparisons run on the GPU. Raises ValueError for queries that are not
    finite, shapes that do not fit and k < 1.
    """
    parts = checked_parts(parts)
    queries = checked_queries(queries, parts[0].shape[1] if parts else None)
    if k < 1:
        raise ValueError(f"k is {k}, wanted 1 or more")
    rows = int(part_offsets(parts)[-1])
    if not rows or not len(queries):
        return ordered(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), len(queries), k)
    k = min(k, rows)
    try:
        query, row, score, unfit = _search(
            queries, parts, k, choose(product, rows, k, len(queries), device), memory, advance
        )
    except BoundBroken:
        query, row, score, unfit = _search(queries, parts, k, choose("blas", rows, k, len(queries)), memory, None)
    return ranked(query, row, score, len(queries), k, unfit)


def above(
    queries: np.ndarray,
    parts: Sequence[np.ndarray],
    threshold: float | np.ndarray,
    *,
    product: str = "auto",
    memory: int = MEMORY,
    advance: Callable[[int], None] | None = None,
) -> Hits:
    """All rows whose inner product with a query, in float64, is `threshold` (a number, or one a query) or more.

    Ordered as `top_k`'s hits are; arguments and errors are its own. The answer is held in memory.
    """
    parts = checked_parts(parts)
    queries = checked_queries(queries, parts[0].shape[1] if parts else None)
    rows = int(part_offsets(parts)[-1])
    low = np.broadcast_to(np.asarray(threshold, dtype=np.float64), (len(queries),))
    if not rows or not len(queries):
        return ordered(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), len(queries), 1)
    for name in (product, "blas"):
        made = choose(name, rows, rows, len(queries))
        searches = _searches(queries, parts, rows, made, low)
        try:
            with Lanes(_lanes(made)) as lanes:
                unfit = _scan(searches, parts, made, 0, rows, memory, advance, lanes)
                query, row, score = _joined(lanes.map(CandidateSearch.finish, searches))
        except BoundBroken:
            continue
        kept = score >= low[query]
        return ranked(query[kept], row[kept], score[kept], len(queries), rows, unfit)
    raise AssertionError("BLAS broke its own bound")


Found = tuple[np.ndarray, np.ndarray, np.ndarray, int]  # query, row, float64 score, in order; rows that are not finite


def _search(queries, parts, k, product, memory, advance, guess: bool = True) -> Found:
    rows = int(part_offsets(parts)[-1])
    with Lanes(_lanes(product)) as lanes:
        if len(queries) < MANY * lanes.count and not on_gpu(product):
            return _by_keys(queries, parts, k, product, memory, advance, lanes)
        searches = _searches(queries, parts, k, product, lanes=lanes.count)
        if guess and rows >= SAMPLE_FROM:
            _guess(searches, parts, k, product, lanes)
        unfit = _scan(searches, parts, product, 0, rows, memory, advance, lanes)
        query, row, score = _joined(lanes.map(CandidateSearch.finish, searches))
        again = np.concatenate([search.unproved() for search in searches])
    if again.any():
        redone = np.flatnonzero(again)
        kept = ~again[query]
        more = _search(queries[redone], parts, k, product, memory, None, guess=False)
        query = np.concatenate([query[kept], redone[more[0]]])
        order = np.argsort(query, kind="stable")
        query = query[order]
        row, score = (np.concatenate([one[kept], two])[order] for one, two in ((row, more[1]), (score, more[2])))
    return query, row, score, unfit


def _by_keys(queries, parts, k, product, memory, advance, lanes: "Lanes") -> Found:
    """Few queries: every core searches a stretch of the pool for all of them."""
    rows = int(part_offsets(parts)[-1])
    edges = np.linspace(0, rows, (lanes.count if rows >= 16_384 else 1) + 1).astype(np.int64)
    alone = Lanes.none()

    def stretch(begin: int, end: int) -> Found:
        own = product.another()
        searches = _searches(queries, parts, min(k, end - begin), own)
        unfit = _scan(searches, parts, own, begin, end, min(memory, FEW_MEMORY), advance, alone)
        return *_joined([search.finish() for search in searches]), unfit

    found = list(lanes.map(stretch, edges[:-1].tolist(), edges[1:].tolist()))
    query, row, score = (np.concatenate([piece[i] for piece in found]) for i in range(3))
    order = np.lexsort((row, -score, query))
    return query[order], row[order], score[order], sum(piece[3] for piece in found)


def _searches(queries, parts, k, product, threshold: np.ndarray | None = None, lanes: int = 1) -> list[CandidateSearch]:
    height = min(QUERY_BLOCK, -(-len(queries) // lanes))
    return [
        CandidateSearch(
            queries[first : first + height],
            parts,
            k,
            product,
            first=first,
            threshold=None if threshold is None else threshold[first : first + height],
        )
        for first in range(0, len(queries), height)
    ]


def _scan(searches, parts, product: Float32Product, begin: int, end: int, memory: int, advance, lanes: "Lanes") -> int:
    """Stream rows `begin` to `end` past the searches; returns how many rows are not finite."""
    dim = parts[0].shape[1]
    limit = int(max(256, min(16_384, memory // (dim * 10))))
    width = limit if searches[0].guessed is not None else min(limit, max(1024, 4 * searches[0].k))
    unfit = 0
    for first, block in _blocks(parts, begin, end, width, limit):
        keys = product.keys(block, np.arange(first, first + len(block)), lanes.map)
        unfit += len(block) - len(keys.ids)
        for _ in lanes.map(CandidateSearch.scan, searches, [keys] * len(searches)):
            pass  # raises what a lane raised
        if advance:
            advance(len(block))
    return unfit


def _blocks(
    parts: Sequence[np.ndarray], begin: int, end: int, width: int, limit: int
) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, rows) over a stretch of the parts. The blocks double from `width` to `limit`: the first ones set the
    cutoffs that keep the candidates of the later ones few."""
    first = 0
    for part in parts:
        at = max(begin - first, 0)
        while at < min(len(part), end - first):
            block = part[at : min(at + width, end - first)]
            yield first + at, block
            at += len(block)
            width = min(2 * width, limit)
        first += len(part)


def _guess(searches: list[CandidateSearch], parts, k: int, product: Float32Product, lanes: "Lanes") -> None:
    """Give every search cutoffs that, by an evenly spread sample, some twice `k` rows reach: were the sample drawn at
    random, fewer than `k` would do so for one query in ten thousand (four standard deviations of a Poisson number)."""
    offsets = part_offsets(parts)
    rows = int(offsets[-1])
    size = int(np.clip(rows // 64, 4096, 32_768))
    wanted = k * size / rows
    rank = int(np.ceil(wanted + 4 * wanted**0.5 + 2))
    if 4 * rank > size:
        return
    places = (np.arange(size) * (rows / size)).astype(np.int64)
    keys = product.keys(gather_half(parts, offsets, places), places, lanes.map)
    for _ in lanes.map(lambda search: search.guess(keys, rank), searches):
        pass


def _joined(found) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the searches found, in the order of their queries."""
    pieces = list(found)
    return tuple(np.concatenate([piece[i] for piece in pieces]) for i in range(3))


class Lanes:
    """Threads that run work side by side, each with one compute thread of torch's, so that cores never wait for each
    other inside a product. A context manager; the caller's thread count is as before afterwards."""

    def __init__(self, count: int):
        self.count = count
        self._pool: ThreadPoolExecutor | None = None

    @classmethod
    def none(cls) -> "Lanes":
        """One lane, which is the caller's own thread."""
        return cls(1)

    def __enter__(self):
        import torch

        self._before = torch.get_num_threads()
        if self.count > 1:
            self._pool = ThreadPoolExecutor(self.count, "search", initializer=_one_compute_thread)
        return self

    def __exit__(self, *_):
        import torch

        if self._pool:
            self._pool.shutdown()
            torch.set_num_threads(self._before)

    def map(self, work: Callable, *items) -> Iterator:
        """`work` of every item, results in their order, all begun at once."""
        return self._pool.map(work, *items) if self._pool else map(work, *items)


def _one_compute_thread() -> None:
    import torch

    with _setting:
        torch.set_num_threads(1)


_setting = threading.Lock()


def _lanes(product: Float32Product) -> int:
    return 1 if on_gpu(product) or product.name == "blas" else len(os.sched_getaffinity(0))
