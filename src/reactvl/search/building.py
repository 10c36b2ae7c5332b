"""Building FAISS indexes over float16 matrices: trained on a seeded sample, filled in parallel, grown, merged.

Ids are rows counted over all parts. The same rows and seed give the same index, byte for byte, whatever the number of
threads, but for graphs (HNSW), whose links threads race for, and transforms (PCA, OPQ), whose products round by it: those are
the same for one number of threads, graphs for one thread.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from reactvl.manifest import ReactvlError
from reactvl.search.hits import checked_parts, part_offsets
from reactvl.search.kinds import empty
from reactvl.search.kmeans import ROUNDS, as_float32, centroids_of, nearest_to

ADD_ROWS = 32_768  # float32 rows held at a time: 64 MiB of 512 dimensions
TRAIN_PER_LIST = 24
TRAIN_ROWS = 65_536  # of a codec, and of an index without lists
HNSW_EF_CONSTRUCTION = 200

Advance = Callable[[int], None] | None


def build(
    parts: Sequence[np.ndarray],
    factory: str,
    *,
    seed: int = 0,
    threads: int = 1,
    rows: tuple[int, int] | None = None,
    device: str = "cpu",
    advance: Advance = None,
):
    """A faiss index (inner product) of the rows of the parts; of `rows` (first, stop) only, when given.

    parts: float16 (rows, D). The training sample is drawn from all parts whatever `rows` says, so that indexes of several
    ranges can be merged. A row with a NaN or an infinity is added as zeros, and never found (search re-scores). advance:
    called with rows just added. Raises ReactvlError when there are no rows or FAISS knows no such factory.
    """
    parts = checked_parts(parts)
    index = trained(parts, factory, seed=seed, threads=threads, device=device)
    first, stop = rows or (0, int(part_offsets(parts)[-1]))
    add(index, parts, first, stop, threads=threads, device=device, advance=advance)
    return index


def trained(
    parts: Sequence[np.ndarray],
    factory: str,
    *,
    seed: int = 0,
    threads: int = 1,
    device: str = "cpu",
    advance: Advance = None,
):
    """An index that has learnt its centroids and codes from a seeded sample, and holds no row yet.

    advance: called with (sampled rows x rounds of k-means) just done, `training_work` in all.
    """
    parts = checked_parts(parts)
    total = int(part_offsets(parts)[-1])
    if not total:
        raise ReactvlError("there are no vectors to index")
    index = empty(factory, parts[0].shape[1])
    import faiss

    graph = _graph(index)
    if graph is not None:
        graph.hnsw.efConstruction = HNSW_EF_CONSTRUCTION
        graph.hnsw.rng = faiss.RandomGenerator(seed + 12345)
    with omp_threads(threads), torch_threads(threads):
        lists = faiss.try_extract_index_ivf(index)
        if index.is_trained:
            return index
        if lists is None:
            index.train(finite(training_sample(parts, min(total, TRAIN_ROWS), seed)))
            return index
        lists.cp.seed = seed + 1  # 0 would mean the clock to some FAISS versions
        lists.cp.spherical = True
        sample = training_sample(parts, min(total, max(TRAIN_PER_LIST * lists.nlist, lists.nlist)), seed)
        if len(sample) < lists.nlist:
            raise ReactvlError(f"--kind {factory}: has {lists.nlist:,} lists, but there are only {total:,} vectors")
        if faiss.downcast_index(index) is not lists and not _is_lists(index):
            # A transform stands before the lists: FAISS trains the two together. One thread: with two a rotation (OPQ) takes
            # three times as long, and its last bits depend on their number.
            with omp_threads(1):
                index.train(finite(sample))
            return index
        if _is_direct(lists) or _graph(lists.quantizer) is not None:
            rows = finite_halves(sample)
            centroids = centroids_of(rows, lists.nlist, seed=seed, device=device, advance=advance)
            if not lists.quantizer.is_trained:
                lists.quantizer.train(centroids)
            lists.quantizer.add(centroids)
            few = rows[:: max(1, len(rows) // TRAIN_ROWS)][:TRAIN_ROWS]
            index.train(as_float32(few))  # the codec alone: the quantizer is full
        else:
            index.train(finite(sample))
    return index


def training_work(rows: int, factory: str, dim: int) -> int:
    """Sampled rows times rounds that `trained` will report; 0 where FAISS trains by itself."""
    import faiss

    index = empty(factory, dim)
    lists = faiss.try_extract_index_ivf(index)
    return 0 if lists is None else min(rows, TRAIN_PER_LIST * lists.nlist) * ROUNDS


def add(
    index,
    parts: Sequence[np.ndarray],
    first: int,
    stop: int,
    *,
    threads: int = 1,
    device: str = "cpu",
    advance: Advance = None,
) -> None:
    """Add rows `first` to `stop` of the parts, their ids those row numbers.

    Into inverted lists of scalar codes the rows go in two passes, so that every list is allocated once at its size: lists
    that grow by doubling would take up to twice the index's memory. Raises ReactvlError where the index numbers its rows
    itself and does not hold `first` rows.
    """
    import faiss

    inner = faiss.try_extract_index_ivf(index)
    piece = index.ntotal == 0 and isinstance(
        faiss.downcast_index(index), faiss.IndexFlatCodes
    )  # numbered when it is merged
    if inner is None and index.ntotal != first and not piece:
        raise ReactvlError(
            f"an index without inverted lists numbers its rows in order: it holds {index.ntotal:,}, so rows from "
            f"{first:,} on cannot be added; index them all at once"
        )
    with omp_threads(threads), torch_threads(threads):
        if inner is not None and _is_lists(index) and _is_direct(inner) and _has_plain_codes(inner):
            _add_in_two_passes(faiss.downcast_index(index), parts, first, stop, device, advance)
            return
        for at, rows in blocks(parts, first, stop):
            if piece or (index.ntotal == at and not isinstance(faiss.downcast_index(index), faiss.IndexIDMap)):
                index.add(rows)
            else:
                index.add_with_ids(rows, np.arange(at, at + len(rows)))
            if advance:
                advance(len(rows))


def _add_in_two_passes(index, parts, first: int, stop: int, device: str, advance: Advance) -> None:
    import faiss

    nearest = nearest_to(faiss.rev_swig_ptr(faiss.downcast_index(index.quantizer).get_xb(), index.nlist * index.d)
                         .reshape(index.nlist, index.d).copy(), device)  # fmt: skip
    chosen = np.concatenate(
        [np.concatenate([nearest(rows[at : at + 4096]) for at in range(0, len(rows), 4096)])
         for _, rows in blocks(parts, first, stop)]
    )  # fmt: skip
    lists = index.invlists
    filled = np.array([lists.list_size(number) for number in range(index.nlist)])
    for number, more in enumerate(np.bincount(chosen, minlength=index.nlist).tolist()):
        if more:
            lists.resize(number, int(filled[number]) + more)
    for at, rows in blocks(parts, first, stop):
        here = chosen[at - first : at - first + len(rows)]
        codes = np.empty((len(rows), index.code_size), dtype=np.uint8)
        index.encode_vectors(len(rows), faiss.swig_ptr(rows), faiss.swig_ptr(here), faiss.swig_ptr(codes))
        order = np.argsort(here, kind="stable")
        ids, codes = order + at, codes[order]
        touched, begin, counts = np.unique(here[order], return_index=True, return_counts=True)
        for number, start, count in zip(touched.tolist(), begin.tolist(), counts.tolist(), strict=True):
            lists.update_entries(
                number,
                int(filled[number]),
                count,
                faiss.swig_ptr(ids[start : start + count]),
                faiss.swig_ptr(codes[start : start + count]),
            )
            filled[number] += count
        index.ntotal += len(rows)
        if advance:
            advance(len(rows))


def merge(pieces: Sequence[tuple[object, int, int]]):
    """One index of several, each (index, first row, rows), trained alike; consumes them.

    Pieces are joined in the order of their rows, so that the whole is that of one build. Raises ReactvlError for ranges that
    overlap or leave a gap, and for kinds that FAISS cannot merge (graphs).
    """
    pieces = sorted(pieces, key=lambda piece: piece[1])
    end = 0
    for _, first, rows in pieces:
        if first != end:
            what = f"rows {end:,} to {first:,} are in none" if first > end else f"row {first:,} is in two"
            raise ReactvlError(f"merge: {what} of the indexes given; give those of all chunks, each once")
        end += rows
    whole = pieces[0][0]
    for piece, _, _ in pieces[1:]:
        try:
            whole.check_compatible_for_merge(piece)
            whole.merge_from(piece, 0)  # ids count over all rows already
        except RuntimeError as fault:
            reason = str(fault).strip().splitlines()[0].split(": ")[-1]
            raise ReactvlError(f"merge: FAISS cannot merge these indexes ({reason}); build the index at once") from None
    return whole


def merges(factory: str, dim: int) -> bool:
    """Can indexes of ranges of rows be merged: lists that carry ids, or codes in order?"""
    import faiss

    index = empty(factory, dim)
    return _is_lists(index) or isinstance(faiss.downcast_index(index), faiss.IndexFlatCodes)


def training_id(index) -> str:
    """SHA-256 of an index that is trained and empty: indexes of equal training can be merged."""
    import faiss

    return hashlib.sha256(faiss.serialize_index(index).tobytes()).hexdigest()


def training_sample(parts: Sequence[np.ndarray], rows: int, seed: int) -> np.ndarray:
    """float16 or float32 (rows, D): rows drawn without repetition from all parts by the seed, in ascending order."""
    offsets = part_offsets(parts)
    chosen = np.sort(np.random.default_rng(seed).choice(int(offsets[-1]), size=rows, replace=False))
    ends = np.searchsorted(chosen, offsets)
    return np.concatenate(
        [
            np.array(part[chosen[begin:end] - first])
            for part, first, begin, end in zip(parts, offsets[:-1], ends[:-1], ends[1:], strict=True)
        ]
    )


def blocks(parts: Sequence[np.ndarray], first: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
    """(row, finite float32 rows) of the rows `first` to `stop`, in order, the parts' edges kept."""
    at = 0
    for part in parts:
        begin, end = max(first - at, 0), min(stop - at, len(part))
        for start in range(begin, end, ADD_ROWS):
            yield at + start, finite(part[start : min(start + ADD_ROWS, end)])
        at += len(part)


def finite(rows: np.ndarray) -> np.ndarray:
    """float32 rows, those with a NaN or an infinity as zeros."""
    rows = as_float32(rows)
    rows[~np.isfinite(np.einsum("nd,nd->n", rows, rows))] = 0
    return rows


def finite_halves(rows: np.ndarray) -> np.ndarray:
    """The rows in their own type, those with a NaN or an infinity as zeros."""
    for first in range(0, len(rows), ADD_ROWS):
        block = rows[first : first + ADD_ROWS]
        block[~np.isfinite(block).all(axis=1)] = 0
    return rows


def _graph(index):
    """The HNSW index behind an index, or None."""
    import faiss

    index = faiss.downcast_index(index)
    while isinstance(index, faiss.IndexPreTransform | faiss.IndexIDMap):
        index = faiss.downcast_index(index.index)
    return index if isinstance(index, faiss.IndexHNSW) else None


def _is_lists(index) -> bool:
    import faiss

    return isinstance(faiss.downcast_index(index), faiss.IndexIVF)


def _is_direct(lists) -> bool:
    """Are the lists found by comparing with every centroid, all of them float32?"""
    import faiss

    return type(faiss.downcast_index(lists.quantizer)) in (faiss.IndexFlatIP, faiss.IndexFlat)


def _has_plain_codes(lists) -> bool:
    import faiss

    return type(lists) in (faiss.IndexIVFScalarQuantizer, faiss.IndexIVFFlat, faiss.IndexIVFRaBitQ)


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


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """torch's thread count for a while."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
