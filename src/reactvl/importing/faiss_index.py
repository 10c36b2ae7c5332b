"""FAISS files as a source: the vectors are read back from the index, row by row in the order of its ids.

clip-retrieval's index folder is two of them (`image.index`, `text.index`) with `metadata/` beside; row i of the metadata
is the pair of id i. Flat, float16 and bfloat16 indexes give back what was put in, 8-bit ones nearly; what product
quantizers and PCA keep only resembles the vectors, and is taken when asked for.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from reactvl.importing.metadata_rows import MetadataRows
from reactvl.importing.source import Block, Source, block_rows
from reactvl.manifest import ReactvlError

PIECE_ROWS = 1_000_000
IVF_BYTES = 256 << 20  # reading back a range of ids walks over all lists, so the ranges are long
METADATA_KINDS = (".parquet", ".arrow", ".feather", ".hdf5", ".h5")
EXACT, NEAR, ROUGH = range(3)


class FaissSource(Source):
    """One or two FAISS files, of the image and the text vectors of the same pairs, and their metadata.

    Raises ReactvlError for a file that FAISS cannot read, an index that is empty, that keeps no vectors or keeps them only
    roughly (unless `lossy`), and for metadata that are missing or have another number of rows.
    """

    kind = "FAISS index"
    unit = "rows"

    def __init__(self, halves: dict[str, Path], metadata: Path | None, lossy: bool):
        self.paths = halves
        first = next(iter(halves.values()))
        self.home = first.parent if len(halves) > 1 else first
        self.halves = tuple(halves)
        self.indexes = {half: Stored(path, lossy) for half, path in halves.items()}
        counts = {path.name: self.indexes[half].rows for half, path in halves.items()}
        dims = {path.name: self.indexes[half].dim for half, path in halves.items()}
        for what, found in (("rows", counts), ("dimensions", dims)):
            if len(set(found.values())) > 1:
                told = ", ".join(f"{name} {value:,}" for name, value in found.items())
                raise ReactvlError(f"{self.home}: the indexes differ in {what} ({told}); take one of them with --keys")
        self.dim, self.size = next(iter(dims.values())), next(iter(counts.values()))
        tables = metadata_files(metadata, first)
        self.metadata = MetadataRows(tables)
        if len(self.metadata) != self.size:
            raise ReactvlError(
                f"{first}: holds {self.size:,} vectors, its metadata ({tables[0]}"
                f"{f' and {len(tables) - 1} more' if len(tables) > 1 else ''}) {len(self.metadata):,} rows; row i of the "
                "metadata must be the pair of id i"
            )
        self.files = [*halves.values(), *tables]
        self.starts = range(0, self.size, PIECE_ROWS)
        self.pieces = [f"rows {start:,} to {self._end(start) - 1:,}" for start in self.starts]
        self.facts = {half: {"index": stored.name, "loss": stored.loss} for half, stored in self.indexes.items()}

    def blocks(self, piece: int) -> Iterator[Block]:
        start, count = self._range(piece)
        walks = any(stored.is_ivf for stored in self.indexes.values())
        size = block_rows(self.dim, IVF_BYTES) if walks else block_rows(self.dim)
        for table in self.metadata.blocks(start, count, size):
            read = {half: stored.vectors(start, table.num_rows) for half, stored in self.indexes.items()}
            yield Block(read.get("image"), read.get("text"), table, [], table.num_rows)
            start += table.num_rows

    def sought(self, piece: int) -> pa.Array:
        return self.metadata.keys(*self._range(piece))

    def _range(self, piece: int) -> tuple[int, int]:
        start = self.starts[piece]
        return start, self._end(start) - start

    def _end(self, start: int) -> int:
        return min(start + PIECE_ROWS, self.size)


class Stored:
    """The vectors that an index file holds. `loss` says in words what its coding costs, None when nothing."""

    def __init__(self, path: Path, lossy: bool):
        self.path = path
        self.index = opened(path)
        self.order: np.ndarray | None = None
        self._without_ids()
        self.rows, self.dim = self.index.ntotal, self.index.d
        self.name = type(innermost(self.index)).__name__
        self.is_ivf = "IVF" in self.name
        if not self.rows:
            raise ReactvlError(
                f"{path}: holds no vector (a trained, still empty index?); give the one they were added to"
            )
        grade, self.loss = coding(self.index)
        self._probe()
        if grade == ROUGH and not lossy:
            raise ReactvlError(
                f"{path}: holds the vectors only roughly ({self.loss}): what can be read back resembles them, and scores "
                "would be off; import the img_emb_*.npy that it was made of, or pass --lossy to take them as they are"
            )

    def vectors(self, first: int, count: int) -> np.ndarray:
        """float32 (count, dim) of ids `first` to `first + count`; NaN where the index has no such id."""
        found = np.full((count, self.dim), np.nan, np.float32)
        if self.order is None:
            self.index.reconstruct_n(first, count, found)
        else:
            for at, place in enumerate(self.order[first : first + count].tolist()):
                self.index.reconstruct(place, found[at])
        return found

    def _without_ids(self) -> None:
        """Take an id map away, and remember the places of the ids in their order."""
        import faiss

        if not isinstance(self.index, faiss.IndexIDMap):
            return
        ids = faiss.vector_to_array(self.index.id_map)
        order = np.argsort(ids, kind="stable")
        if not np.array_equal(ids[order], np.arange(len(ids))):
            raise ReactvlError(
                f"{self.path}: its ids are not the numbers 0 to {len(ids) - 1:,}, so they name no rows of the metadata"
            )
        self._owner, self.index = self.index, faiss.downcast_index(self.index.index)
        if not np.array_equal(order, np.arange(len(order))):
            self.order = order
            inner = innermost(self.index)
            if isinstance(inner, faiss.IndexIVF):
                inner.make_direct_map()

    def _probe(self) -> None:
        """Read one vector: FAISS ends the process where many are asked of an index that keeps none."""
        try:
            if self.is_ivf and self.order is None:
                self.index.reconstruct_n(0, 1)
            else:
                self.index.reconstruct(0)
        except RuntimeError:
            raise ReactvlError(
                f"{self.path}: is of a kind from which vectors cannot be read back ({self.name}); import the img_emb_*.npy "
                "that it was made of"
            ) from None


def opened(path: Path) -> Any:
    """The index of a file, memory-mapped where FAISS can; ReactvlError when it is not FAISS's.

    Lists that lie in a file of their own (`.ivfdata`) are looked for beside the index and nowhere else.
    """
    import faiss

    with open(path, "rb") as file:
        head = file.read(4)
    lists = head[:2] == b"Iw" or head == b"IxPT"
    flags = faiss.IO_FLAG_READ_ONLY | faiss.IO_FLAG_ONDISK_SAME_DIR
    try:
        index = faiss.read_index(str(path), flags | (faiss.IO_FLAG_MMAP if lists else faiss.IO_FLAG_MMAP_IFC))
        if lists and elsewhere(
            index, path
        ):  # such lists are mapped anyway, and FAISS breaks when asked to map them twice
            index = faiss.read_index(str(path), flags)
    except RuntimeError as fault:
        raise ReactvlError(f"{path}: FAISS cannot read it ({str(fault).splitlines()[0]})") from None
    return index


def elsewhere(index: Any, path: Path) -> bool:
    """Whether the index's lists lie in another file than its own."""
    import faiss

    inner = innermost(index)
    if not isinstance(inner, faiss.IndexIVF):
        return False
    lists = faiss.downcast_InvertedLists(inner.invlists)
    return isinstance(lists, faiss.OnDiskInvertedLists) and lists.filename != str(path)


def innermost(index: Any) -> Any:
    """The index that holds the codes, under transforms and graphs; of a refined one the finer."""
    import faiss

    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform | faiss.IndexIDMap):
        return innermost(index.index)
    if isinstance(index, faiss.IndexRefine):
        return innermost(index.refine_index)
    if isinstance(index, faiss.IndexHNSW | faiss.IndexNSG):
        return innermost(index.storage)
    return index


def coding(index: Any) -> tuple[int, str | None]:
    """How true the stored vectors are (EXACT, NEAR, ROUGH), and what they lost, in words."""
    import faiss

    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        for number in range(index.chain.size()):
            step = faiss.downcast_VectorTransform(index.chain.at(number))
            if step.d_out < step.d_in:
                return ROUGH, f"{type(step).__name__} from {step.d_in} to {step.d_out} dimensions"
    inner = innermost(index)
    if isinstance(inner, faiss.IndexFlat | faiss.IndexIVFFlat):
        return EXACT, None
    if isinstance(inner, faiss.IndexScalarQuantizer | faiss.IndexIVFScalarQuantizer):
        kinds = {value: name for name, value in vars(faiss.ScalarQuantizer).items() if name.startswith("QT_")}
        name = kinds.get(inner.sq.qtype, "unknown")
        told = f"scalar quantizer {name.removeprefix('QT_')}"
        if name in ("QT_fp16", "QT_bf16"):
            return (NEAR, f"{told} of residuals") if getattr(inner, "by_residual", False) else (EXACT, None)
        return (NEAR if "8bit" in name else ROUGH), told
    return (
        ROUGH,
        f"{type(inner).__name__}, {inner.sa_code_size() if hasattr(inner, 'sa_code_size') else '?'} bytes a vector",
    )


def beside(folder: Path, stem: str | None) -> Path | None:
    """Where the metadata of an index lie: `metadata/` or `metadata.parquet` (or .arrow, .hdf5) beside it, or a file of
    the index's own name."""
    names = ["metadata", *(f"metadata{ending}" for ending in METADATA_KINDS)]
    names += [f"{stem}{ending}" for ending in METADATA_KINDS] if stem else []
    return next((folder / name for name in names if (folder / name).exists()), None)


def metadata_files(given: Path | None, index: Path) -> list[Path]:
    """The metadata files, in the order that the ids count; ReactvlError when there are none."""
    if given is None:
        raise ReactvlError(
            f"{index}: no metadata lie beside it (metadata/*.parquet, metadata.hdf5): pass --metadata with the files whose "
            "row i is the pair of id i"
        )
    if not given.exists():
        raise ReactvlError(f"metadata: {given} does not exist")
    found = [given] if given.is_file() else sorted(path for path in given.rglob("*") if path.suffix in METADATA_KINDS)
    kinds = {path.suffix for path in found}
    if len(kinds) != 1 or not kinds <= set(METADATA_KINDS):
        told = "several kinds of them, " + ", ".join(sorted(kinds)) if kinds else "no parquet, Arrow or hdf5 file"
        raise ReactvlError(f"metadata: {given} holds {told}; give files of one kind")
    return found
