"""The candidates of a block of queries while a pool streams by: whatever may yet belong to the exact answer.

A candidate is one uint64: query (10 bits), fast score (16 bits, falling), row (38 bits), so that sorting numbers sorts
candidates by query, best first.
"""

from collections.abc import Sequence

import numpy as np

from reactvl.search.products import Float32Product, KeyBlock, score_of
from reactvl.search.rescore import rescore

ROW_BITS, SCORE_BITS = 38, 16
QUERY_SHIFT = np.uint64(ROW_BITS + SCORE_BITS)
ROW_MASK, SCORE_MASK = np.uint64((1 << ROW_BITS) - 1), np.uint64((1 << SCORE_BITS) - 1)


class BoundBroken(ArithmeticError):
    """A product's scores lie further from the exact ones than its bound says."""


class CandidateSearch:
    """The candidates of one block of queries (Q, D), Q at most 1024.

    Invariant: every row seen so far that belongs to a query's true top-k is among its candidates, unless a guessed
    cutoff was too high for that query, which `unproved` tells after `finish`. `cutoff[q]` is a score (of the fast
    product) that no such row lies below. With `threshold` (float64 (Q,)) the answer is not the top-k but every row that
    reaches it.
    """

    def __init__(
        self,
        queries: np.ndarray,
        parts: Sequence[np.ndarray],
        k: int,
        product: Float32Product,
        first: int = 0,
        threshold: np.ndarray | None = None,
    ):
        self.exact, self.parts, self.k, self.product, self.first = queries, parts, k, product, first
        # powers of two take the queries' sizes out of the bounds, exactly
        norms = np.sqrt((queries.astype(np.float64) ** 2).sum(axis=1))
        self.exponent = np.where(norms > 0, np.frexp(norms)[1], 0).astype(np.int32)
        scaled = np.ldexp(queries, -self.exponent[:, None]).astype(np.float32)
        self.ready, self.norms, self.rounding = product.queries(scaled)
        self.key_norm = self.key_rounding = 0.0
        self.cutoff = np.full(len(queries), -np.inf, dtype=np.float32)
        self.guessed: np.ndarray | None = None
        self.threshold = None if threshold is None else np.ldexp(threshold, -self.exponent)
        self.pending: list[np.ndarray] = []
        self.count = 0
        self.limit = 3 * len(queries) * k + 65_536
        self._proved = np.ones(len(queries), dtype=bool)

    def guess(self, keys: KeyBlock, rank: int) -> None:
        """Start from the `rank`-th best score of a sample of the pool as cutoff."""
        trial = CandidateSearch(self.exact, self.parts, min(rank, max(len(keys.ids), 1)), self.product)
        trial.scan(keys)
        trial._compact()
        self.guessed = self.product.rounded(trial.kth)
        self.cutoff = np.maximum(self.cutoff, self.guessed)

    def scan(self, keys: KeyBlock) -> None:
        """Add the candidates of one block of keys."""
        if not len(keys.ids):
            return
        self.key_norm = max(self.key_norm, keys.norm)
        self.key_rounding = max(self.key_rounding, keys.rounding)
        if self.threshold is not None:
            self.cutoff = self.product.rounded(self.threshold - self._error())
        width = max(1024, self.product.tile // len(self.cutoff))
        for begin in range(0, len(keys.ids), width):
            ids = keys.ids[begin : begin + width]
            places, rising = self.product.above(self.ready, keys.values[begin : begin + width], self.cutoff)
            query, column = np.divmod(places, len(ids))
            codes = query.astype(np.uint64) << QUERY_SHIFT
            codes |= (SCORE_MASK - rising) << np.uint64(ROW_BITS)
            codes |= ids[column].astype(np.uint64)
            first = not self.pending
            self.pending.append(codes)
            self.count += len(codes)
            if self.threshold is None and ((first and self.guessed is None) or self.count > self.limit):
                self._compact()
                if self.count > self.limit:
                    self._resolve()

    def finish(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(query int64, row int64, float64 score) of the true top-k, in order; queries counted over all blocks."""
        if not self.pending:
            self._proved[:] = self.guessed is None
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
        if self.threshold is None:
            self._compact()
        query, row, score = self._resolve()
        self.pending = []
        return query + self.first, row, score

    def unproved(self) -> np.ndarray:
        """bool (Q,): whose guessed cutoff may have cost a row of the answer."""
        return ~self._proved

    def _error(self) -> np.ndarray:
        return self.product.error(self.exact.shape[1], self.norms, self.rounding, self.key_norm, self.key_rounding)

    def _joined(self) -> np.ndarray:
        return self.pending[0] if len(self.pending) == 1 else np.concatenate(self.pending)

    def _raise_cutoffs(self, at: np.ndarray, kth: np.ndarray) -> None:
        """k rows of queries `at` have exact scores (scaled) of `kth` or more: what lies below them by the error
        goes."""
        edge = self.product.rounded(kth - self._error()[at])
        self.cutoff[at] = np.maximum(self.cutoff[at], edge)

    def _compact(self) -> None:
        """Sort the candidates, raise the cutoffs to what their k-th implies, and drop what lies below."""
        codes = np.sort(self._joined())
        begins = np.arange(len(self.cutoff), dtype=np.uint64) << QUERY_SHIFT
        first = np.append(np.searchsorted(codes, begins), len(codes))
        full = np.flatnonzero(np.diff(first) >= self.k)
        kth = score_of(SCORE_MASK - (codes[first[full] + self.k - 1] >> np.uint64(ROW_BITS) & SCORE_MASK)).astype(
            np.float64
        )
        kth -= np.abs(kth) * self.product.output_unit * 1.01  # before the output was rounded
        self.kth = np.full(len(self.cutoff), -np.inf)
        self.kth[full] = kth
        self._raise_cutoffs(full, kth - self._error()[full])
        lowest = (SCORE_MASK - self.product.edge(self.cutoff)) << np.uint64(ROW_BITS) | ROW_MASK
        kept = codes <= np.repeat(begins | lowest, np.diff(first))
        self.pending = [codes[kept]]
        self.count = len(self.pending[0])

    def _resolve(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Re-score every candidate in float64 and keep the true top-k of them, in order."""
        codes = self._joined()
        row = (codes & ROW_MASK).astype(np.int64)
        codes, row = _by_row(codes, row)
        query = (codes >> QUERY_SHIFT).astype(np.uint16)
        score = score_of(SCORE_MASK - (codes >> np.uint64(ROW_BITS) & SCORE_MASK))
        exact = rescore(self.exact, self.parts, query, row, in_order=True)
        scaled = np.ldexp(exact, -self.exponent[query])
        bound = self._error()[query] + np.abs(score) * self.product.output_unit * 1.01
        if (np.abs(score - scaled) > bound).any():
            raise BoundBroken(self.product.name)
        order = np.argsort(-exact, kind="stable")  # rows ascend among equal scores
        order = order[np.argsort(query[order], kind="stable")]
        first = np.searchsorted(query[order], np.arange(len(self.cutoff) + 1))
        if self.threshold is None:
            full = np.flatnonzero(np.diff(first) >= self.k)
            kth = scaled[order[first[full] + self.k - 1]]
            self._prove(full, kth)
            self._raise_cutoffs(full, kth)
            order = order[np.arange(len(order)) - first[query[order]] < self.k]
        self.pending = [codes[order]]
        self.count = len(order)
        return query[order].astype(np.int64), row[order], exact[order]

    def _prove(self, full: np.ndarray, kth: np.ndarray) -> None:
        """A row that a guess kept out has a fast score below the guess, so an exact one below it by the error at
        most."""
        if self.guessed is None:
            return
        self._proved[:] = False
        guess = self.guessed.astype(np.float64)[full]
        room = self._error()[full] + np.abs(guess) * self.product.output_unit * 1.01
        self._proved[full] = kth >= guess + room


def _by_row(codes: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The candidates in ascending order of their rows, so that a memory map is read forwards."""
    order = np.argsort(row)
    return codes[order], row[order]
