"""Near duplicates: pictures that differ by a resize, a re-encoding or a small edit.

Two notions, both exact (every pair that the definition names is found, no other):

- **by perceptual hash**: 64-bit hashes that differ in at most `bits` bits. Cut into more bands than bits may differ, two
  such hashes agree on some bands whole: rows are sorted by those bands and compared with their equals only (multi-index
  hashing, Norouzi et al. 2012, for all pairs at once). A hash with few bits set is that of a flat or doubly
  symmetric picture, which many different pictures share: it says nothing, and no row is joined by it.
- **by image vector**: cosines of `cosine` or more, all rows against all. Blocks of rows are compared in the space of
  their leading principal components, where no two rows are further apart than they are; what is near there is
  compared whole in float64.

Rows joined by any notion are one group, and so are rows joined through others. Groups are found within and across
classes at once: a row has one group, whichever classes want it. Memory is a few numbers a row, besides the arrays given.
"""

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np

BITS = 4  # of 64: what a resize or a re-encoding changes
COSINE = 0.97
TELLING = 12  # bits set in a hash that says something; a picture without symmetry has 32
SKETCH = 64  # principal components in which rows are compared first
BLOCK = 2048  # rows against rows: 16 MB of scores
SAMPLE = 4096  # rows that the principal components are taken of
VERIFY = 16_384  # pairs whose vectors are gathered at a time
EDGES = 1 << 20  # pairs that are held before they are joined


def near(
    picture: np.ndarray,
    *,
    hashes: np.ndarray | None = None,
    bits: int = BITS,
    vectors: np.ndarray | None = None,
    cosine: float = COSINE,
    advance: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Groups of near duplicates, int64 (n,): equal numbers for rows of one group, in order of first appearance.

    picture: int64 (n,), equal for rows of equal bytes, which stay together. hashes: uint64 (n,), 0 where there is none;
    rows within `bits` (0 to 16) join. vectors: (n, D), any length, NaN or zeros where there are none; rows of `cosine`
    (over 0) or more join. advance: called with the number of rows whose vectors have been compared. Usable as
    `Candidates.near` of rows. Raises ValueError for thresholds out of range.
    """
    _, first, place = np.unique(picture, return_index=True, return_inverse=True)
    groups = Groups(len(first))  # one entry a picture: copies are compared once
    if hashes is not None:
        for a, b in hamming_pairs(hashes[first], bits):
            groups.join(a, b)
    if vectors is not None:
        join_similar(groups, vectors, first, cosine, advance)
    return renumbered(groups.labels()[place])


def renumbered(labels: np.ndarray) -> np.ndarray:
    """int64 (n,): equal where labels are equal, numbered in order of first appearance."""
    _, first, place = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first, kind="stable"), kind="stable")[place]


class Groups:
    """Sets of the numbers 0 to n - 1 under joining, in memory of n and a bounded number of pairs not yet joined."""

    def __init__(self, count: int):
        self.label = np.arange(count)
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._held = 0

    def join(self, a: np.ndarray, b: np.ndarray) -> None:
        """Join a[i] with b[i], for every i."""
        self._pending.append((a, b))
        self._held += len(a)
        if self._held > EDGES:
            self._merge()

    def labels(self) -> np.ndarray:
        """int64 (n,): equal for joined numbers."""
        self._merge()
        return self.label

    def apart(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """bool: which pairs are not known to be joined."""
        return self.label[a] != self.label[b]

    def _merge(self) -> None:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        if self._held:
            a, b = (self.label[np.concatenate(side)] for side in zip(*self._pending, strict=True))
            new = a != b
            edges = coo_array((np.ones(int(new.sum()), np.int8), (a[new], b[new])), shape=(len(self.label),) * 2)
            _, component = connected_components(edges, directed=False)
            self.label = component.astype(np.int64)[self.label]
        self._pending, self._held = [], 0


def telling(hashes: np.ndarray) -> np.ndarray:
    """bool (n,): hashes by which pictures can be told apart."""
    return np.bitwise_count(hashes) >= TELLING


def hamming_pairs(hashes: np.ndarray, bits: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (a, b) of places of telling hashes (uint64 (n,)) that differ in at most `bits` bits, in pieces of at most n
    pairs; a pair may come more than once, in one of its two orders. Equal hashes are given as a chain, not pair by
    pair."""
    known = np.flatnonzero(telling(hashes))
    known = known[np.argsort(hashes[known], kind="stable")]
    same = hashes[known[1:]] == hashes[known[:-1]]
    yield known[:-1][same], known[1:][same]
    known = known[np.concatenate([[True], ~same])] if len(known) else known
    values = hashes[known]
    for mask in tables(len(values), len(values), bits):
        order = np.argsort(values & mask, kind="stable")
        place, value, key = known[order], values[order], values[order] & mask
        # entry i against i + 1, i + 2, ... while their keys are equal
        end = np.searchsorted(key, key, side="right")
        active = np.arange(len(key))
        for step in range(1, len(key)):
            active = active[active + step < end[active]]
            if not len(active):
                break
            close = active[np.bitwise_count(value[active] ^ value[active + step]) <= bits]
            if len(close):
                yield place[close], place[close + step]


def close_to(hashes: np.ndarray, known: np.ndarray, bits: int) -> np.ndarray:
    """bool (n,): which telling hashes (uint64 (n,)) differ from any telling one of `known` in at most `bits` bits."""
    found = np.zeros(len(hashes), dtype=bool)
    known = np.unique(known[telling(known)])
    asked = np.flatnonzero(telling(hashes))
    if not len(known):
        return found
    for mask in tables(len(asked), len(known), bits):
        asked = asked[~found[asked]]
        value = known[np.argsort(known & mask, kind="stable")]
        key, wanted = value & mask, hashes[asked] & mask
        at, end = np.searchsorted(key, wanted), np.searchsorted(key, wanted, side="right")
        active = np.arange(len(asked))
        while len(active := active[at[active] < end[active]]):
            close = np.bitwise_count(hashes[asked[active]] ^ value[at[active]]) <= bits
            found[asked[active[close]]] = True
            active = active[~close]
            at[active] += 1
    return found


def tables(asked: int, known: int, bits: int) -> list[np.uint64]:
    """Masks such that any two 64-bit hashes that differ in at most `bits` bits agree under one of them.

    Of bits + k bands, k at least agree: a mask for every choice of k. A larger k means more masks with more bits each,
    so fewer rows of equal key; it is chosen by what comparing `asked` with `known` hashes costs.
    """
    if not 0 <= bits <= 16:
        raise ValueError(f"bits is {bits}, wanted 0 to 16")

    def cost(k: int) -> float:
        sort = math.log2(known + 2) * 8
        return math.comb(bits + k, k) * (asked + known) * (sort + known / 2 ** (64 * k / (bits + k)))

    k = min(range(1, 4 if bits else 2), key=cost)
    edges = np.linspace(0, 64, bits + k + 1).astype(int).tolist()
    bands = [((1 << (high - low)) - 1) << low for low, high in itertools.pairwise(edges)]
    return [np.uint64(sum(chosen)) for chosen in itertools.combinations(bands, k)]


def join_similar(
    groups: Groups,
    vectors: np.ndarray,
    rows: np.ndarray,
    cosine: float,
    advance: Callable[[int], None] | None = None,
) -> None:
    """Join entries i and j of `groups` where vectors[rows[i]] and vectors[rows[j]] have a cosine of `cosine` or
    more."""
    if not 0 < cosine <= 1:
        raise ValueError(f"cosine is {cosine}, wanted over 0 and at most 1")
    sketch, fit = sketches(vectors, rows)
    half = (sketch**2).sum(axis=1, keepdims=True) / 2
    ones = np.ones_like(half)
    # left @ right.T is minus half the squared distance: for whole vectors, the cosine less 1
    left, right = np.hstack([sketch, -half, ones]), np.hstack([sketch, ones, -half])
    edge = np.float32(cosine - 1 - 1e-4)  # the products are float32, of numbers up to 2
    for first in range(0, len(rows), BLOCK):
        for second in range(first, len(rows), BLOCK):
            close = left[first : first + BLOCK] @ right[second : second + BLOCK].T >= edge
            if close.any():
                a, b = np.nonzero(close)
                a, b = a + first, b + second
                kept = (a < b) & fit[a] & fit[b]
                _join_verified(groups, vectors, rows, a[kept], b[kept], cosine)
        if advance:
            advance(min(BLOCK, len(rows) - first))


def _join_verified(groups: Groups, vectors, rows, a: np.ndarray, b: np.ndarray, cosine: float) -> None:
    if len(a) > VERIFY:
        groups.labels()  # many are near each other: what is joined already need not be compared
    for start in range(0, len(a), VERIFY):
        left, right = a[start : start + VERIFY], b[start : start + VERIFY]
        apart = groups.apart(left, right)
        left, right = left[apart], right[apart]
        alike = (
            cosines(vectors[rows[left]], vectors[rows[right]]) >= cosine - 1e-12
        )  # equal vectors: 1 but for rounding
        groups.join(left[alike], right[alike])
        if len(a) > VERIFY:
            groups.labels()


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """float64 (n,): the cosine of each row of `left` (n, D) with that of `right`."""
    left, right = left.astype(np.float64), right.astype(np.float64)
    lengths = np.einsum("nd,nd->n", left, left) * np.einsum("nd,nd->n", right, right)
    return np.einsum("nd,nd->n", left, right) / np.sqrt(np.where(lengths > 0, lengths, 1.0))


def sketches(vectors: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 (n, at most SKETCH): the normalised rows along the leading principal components of a sample of them; and
    bool (n,): which rows are vectors at all."""
    width = vectors.shape[1]
    spread = np.linspace(0, max(len(rows) - 1, 0), min(SAMPLE, len(rows))).astype(np.int64)
    sample, fit = normalised(vectors[rows[spread]])
    centre = sample[fit].mean(axis=0) if fit.any() else np.zeros(width, np.float32)
    axes = np.linalg.eigh((sample[fit] - centre).T.astype(np.float64) @ (sample[fit] - centre))[1]
    axes = axes[:, ::-1][:, : min(SKETCH, width)].astype(np.float32)  # orthonormal, the widest first
    sketch = np.empty((len(rows), axes.shape[1]), np.float32)
    fit = np.empty(len(rows), dtype=bool)
    for first in range(0, len(rows), SAMPLE):
        piece, fit[first : first + SAMPLE] = normalised(vectors[rows[first : first + SAMPLE]])
        sketch[first : first + SAMPLE] = (piece - centre) @ axes
    return sketch, fit


def normalised(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 (n, D) of length 1, zeros for rows that are no vector; and bool (n,): which are."""
    vectors = vectors.astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1)
    fit = np.isfinite(lengths) & (lengths > 0)
    vectors[~fit] = 0
    return vectors / np.where(fit, lengths, 1)[:, None], fit


def similar_to(vectors: np.ndarray, known: np.ndarray, cosine: float) -> np.ndarray:
    """bool (n,): which vectors (n, D) have a cosine of `cosine` or more with any row of `known` (m, D); exact."""
    found = np.zeros(len(vectors), dtype=bool)
    for first in range(0, len(vectors), BLOCK):
        mine, fit = normalised(vectors[first : first + BLOCK])
        for second in range(0, len(known), BLOCK):
            theirs, able = normalised(known[second : second + BLOCK])
            a, b = np.nonzero(mine @ theirs.T >= np.float32(cosine - 1e-4))
            for start in range(0, len(a), VERIFY):
                left, right = a[start : start + VERIFY], b[start : start + VERIFY]
                open_ = fit[left] & able[right] & ~found[left + first]
                left, right = left[open_], right[open_]
                alike = cosines(vectors[left + first], known[right + second]) >= cosine - 1e-12
                found[left[alike] + first] = True
    return found
