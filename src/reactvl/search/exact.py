"""Exact top-k of queries against a pool of float16 vectors, streamed in bounded memory.

The result is that of float64 arithmetic on the stored values, ties broken by the lower row, whatever machine, thread
count or block size made it. A fast product (products.py) only *picks candidates*: a row is dropped when even with the
product's error bound it lies below k others. Candidates are re-scored in float64 from the float16 vectors. Should a
product break its bound on some machine, the candidates show it, and the search runs again through BLAS.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from reactvl.search.hits import Hits, checked_parts, checked_queries, ordered, part_offsets, ranked
from reactvl.search.products import Float32Product, KeyBlock, choose
from reactvl.search.rescore import rescore

# Blocks of scores stay under 32 MB: below that the allocator hands the same memory out again, above it every block is
# fresh from the kernel, and touching its pages takes a third of the product's time.
QUERY_BLOCK = 1024
MEMORY = 48 << 20


def top_k(
    queries: np.ndarray,
    parts: Sequence[np.ndarray],
    k: int,
    *,
    product: str = "auto",
    memory: int = MEMORY,
    advance: Callable[[int], None] | None = None,
) -> Hits:
    """The `k` rows of largest inner product with each query.

    queries: float32 or float16 (Q, D), finite. parts: float16 matrices (rows, D), memory maps as a rule; they are read
    once in order and once more where candidates lie. A row with a NaN or an infinity is never found (`Hits.unfit`
    counts them); with fewer than `k` rows all are returned. memory: bytes for one block of scores; beyond it stand the
    answer itself and at most some four times as many candidates. advance: called with the number of rows just scanned.
    Raises ValueError for queries that are not finite, shapes that do not fit and k < 1.
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
        return _search(queries, parts, k, choose(product, rows, k, len(queries)), memory, advance)
    except BoundBroken:
        return _search(queries, parts, k, choose("blas", rows, k, len(queries)), memory, None)


class BoundBroken(ArithmeticError):
    """A product's scores lie further from the exact ones than its bound says."""


def _search(queries, parts, k, product, memory, advance) -> Hits:
    height = min(QUERY_BLOCK, len(queries))
    width = max(256, min(16_384, memory // (height * 8 + queries.shape[1] * 10)))
    searches = [
        CandidateSearch(queries[first : first + height], parts, k, product) for first in range(0, len(queries), height)
    ]
    unfit = 0
    for first, block in _blocks(parts, min(width, max(1024, 4 * k)), width):
        keys = product.keys(block, np.arange(first, first + len(block)))
        unfit += len(block) - len(keys.ids)
        for search in searches:
            search.scan(keys)
        if advance:
            advance(len(block))
    found = [search.finish() for search in searches]
    query = np.concatenate([query + i * height for i, (query, _, _) in enumerate(found)])
    row, score = (np.concatenate([entry[i] for entry in found]) for i in (1, 2))
    return ranked(query, row, score, len(queries), k, unfit)


def _blocks(parts: Sequence[np.ndarray], width: int, limit: int) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, rows) over the parts. The first blocks are small and double: they set the cutoffs that keep the
    candidates of the later ones few."""
    first = 0
    for part in parts:
        at = 0
        while at < len(part):
            block = part[at : at + width]
            yield first + at, block
            at += len(block)
            width = min(2 * width, limit)
        first += len(part)


class CandidateSearch:
    """The candidates of one block of queries (Q, D) while the pool streams by.

    Invariant: every row seen so far that belongs to a query's true top-k is among its candidates. `cutoff[q]` is a
    score (of the fast product) that no such row lies below.
    """

    def __init__(self, queries: np.ndarray, parts: Sequence[np.ndarray], k: int, product: Float32Product):
        self.exact, self.parts, self.k, self.product = queries, parts, k, product
        # powers of two take the queries' sizes out of the bounds, exactly
        norms = np.sqrt((queries.astype(np.float64) ** 2).sum(axis=1))
        self.exponent = np.where(norms > 0, np.frexp(norms)[1], 0).astype(np.int32)
        self.scaled = np.ldexp(queries, -self.exponent[:, None]).astype(np.float32)
        self.ready, self.norms, self.rounding = product.queries(self.scaled)
        self.key_norm = self.key_rounding = 0.0
        self.cutoff = np.full(len(queries), -np.inf, dtype=np.float32)
        self.pending: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.count = 0
        self.limit = 2 * len(queries) * k + 65_536

    def scan(self, keys: KeyBlock) -> None:
        """Add the candidates of one block of keys."""
        if not len(keys.ids):
            return
        self.key_norm = max(self.key_norm, keys.norm)
        self.key_rounding = max(self.key_rounding, keys.rounding)
        places, score = self.product.above(self.ready, keys, self.cutoff)
        query, column = np.divmod(places, len(keys.ids))
        first = not self.pending
        self.pending.append((query.astype(np.int32), keys.ids[column], score))
        self.count += len(places)
        if first or self.count > self.limit:
            self._compact()
            if self.count > self.limit:
                self._resolve()

    def finish(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(query, row, float64 score) of the true top-k, in order."""
        if not self.pending:
            return np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0)
        self._compact()
        exact = self._resolve()
        (query, row, _) = self.pending[0]
        return query, row, exact

    def _error(self) -> np.ndarray:
        return self.product.error(self.exact.shape[1], self.norms, self.rounding, self.key_norm, self.key_rounding)

    def _joined(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return tuple(np.concatenate([piece[i] for piece in self.pending]) for i in range(3))

    def _keep(self, query: np.ndarray, row: np.ndarray, score: np.ndarray) -> None:
        self.pending, self.count = [(query, row, score)], len(row)

    def _raise_cutoffs(self, at: np.ndarray, kth: np.ndarray) -> None:
        """k rows of queries `at` have exact scores (scaled) of `kth` or more: what lies below them by the error
        goes."""
        edge = self.product.rounded(kth - self._error()[at])
        self.cutoff[at] = np.maximum(self.cutoff[at], edge)

    def _compact(self) -> None:
        query, row, score = self._joined()
        order = np.argsort(_sort_key(query, score))
        query, row, score = query[order], row[order], score[order]
        first = np.searchsorted(query, np.arange(len(self.cutoff) + 1))
        full = np.flatnonzero(np.diff(first) >= self.k)
        kth = score[first[full] + self.k - 1].astype(np.float64)
        kth -= np.abs(kth) * self.product.output_unit * 1.01  # before the output was rounded
        self._raise_cutoffs(full, kth - self._error()[full])
        kept = score >= self.cutoff[query]
        self._keep(query[kept], row[kept], score[kept])

    def _resolve(self) -> np.ndarray:
        """Re-score every candidate in float64 and keep the true top-k of them, in order; returns their scores."""
        query, row, score = self._joined()
        exact = rescore(self.exact, self.parts, query, row)
        scaled = np.ldexp(exact, -self.exponent[query])
        bound = self._error()[query] + np.abs(score) * self.product.output_unit * 1.01
        if (np.abs(score - scaled) > bound).any():
            raise BoundBroken(self.product.name)
        order = np.lexsort((row, -exact, query))
        first = np.searchsorted(query[order], np.arange(len(self.cutoff) + 1))
        kept = order[np.arange(len(order)) - first[query[order]] < self.k]
        full = np.flatnonzero(np.diff(first) >= self.k)
        self._raise_cutoffs(full, scaled[order[first[full] + self.k - 1]])
        self._keep(query[kept], row[kept], score[kept])
        return exact[kept]


def _sort_key(query: np.ndarray, score: np.ndarray) -> np.ndarray:
    """uint64 that sorts by query and then by falling float32 score: one integer sort takes a tenth of a lexsort's
    time."""
    bits = score.view(np.uint32)
    rising = np.where(bits >> 31 != 0, ~bits, bits | np.uint32(1 << 31))
    return (query.astype(np.uint64) << np.uint64(32)) | (~rising).astype(np.uint64)
