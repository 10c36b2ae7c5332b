"""What an import reads from, whatever its format: pieces of rows, and the way to tell which format a path is."""

import abc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from reactvl.handles import foreign
from reactvl.manifest import ReactvlError

BLOCK_BYTES = 16 << 20  # of float32 vectors that are held at a time


class Dropped(NamedTuple):
    """A row that is left out: a reason for counting, and the details."""

    key: str
    reason: str
    detail: str


class Block(NamedTuple):
    """Some rows: float (n, dim) vectors as they came, and n rows of metadata in our columns and further ones.

    `dropped` are rows that never became rows; `done` is how much of the source this was, in its unit.
    """

    images: np.ndarray | None
    texts: np.ndarray | None
    metadata: pa.Table
    dropped: list[Dropped]
    done: int


class Source(abc.ABC):
    """A source of vectors in pieces, each of which is read whole or not at all.

    `kind` says in words what it is; `files` are all that it is made of; `pieces` are their names, shown to people;
    `size` counts `unit`s over all pieces; `shards` are the shards (their files' names up to the first dot) that the
    pieces are of, None where rows may lie anywhere.
    """

    kind: str
    home: Path
    files: list[Path]
    halves: tuple[str, ...]
    dim: int
    pieces: list[str]
    size: int
    unit: str
    facts: dict[str, Any]
    shards: list[str] | None = None

    @abc.abstractmethod
    def blocks(self, piece: int) -> Iterator[Block]:
        """The rows of one piece in order, in bounded memory."""

    @abc.abstractmethod
    def sought(self, piece: int) -> str | pa.Array:
        """By what a piece's rows are found in a pool: its shard where `shards` tells, else the rows' keys."""


def find_source(src: Path, keys: str | None, metadata: Path | None, lossy: bool) -> Source:
    """The source that a path is; ReactvlError when it is none, with what could be taken."""
    from reactvl.importing import faiss_index, features, published

    if not src.exists():
        raise ReactvlError(
            f"{src}: does not exist; give an index folder, a FAISS file, or a folder of TSVs or npy files"
        )
    if src.is_file():
        if src.suffix in (".npy", ".parquet", ".tsv", ".tar"):
            raise ReactvlError(f"{src}: give the folder that it lies in")
        halves = {keys or ("text" if src.name == "text.index" else "image"): src}
        return faiss_index.FaissSource(halves, metadata or faiss_index.beside(src.parent, src.stem), lossy)
    if (src / "manifest.json").exists():
        raise ReactvlError(f"{src}: is a folder of this tool already; import takes what others made")
    if foreign.is_published(src):
        without("published npy folders", keys=keys, metadata=metadata)
        return published.PublishedSource(src)
    halves = {half: src / f"{half}.index" for half in ("image", "text") if (src / f"{half}.index").is_file()}
    if halves:
        if keys and keys not in halves:
            raise ReactvlError(f"{src}: has no {keys}.index")
        halves = {half: path for half, path in halves.items() if keys in (None, half)}
        return faiss_index.FaissSource(halves, metadata or faiss_index.beside(src, None), lossy)
    if next(src.glob("*.tsv"), None):
        without("feature TSVs", keys=keys, metadata=metadata)
        return features.FeatureSource(src)
    raise ReactvlError(
        f"{src}: holds nothing that can be imported: no image.index or text.index, no img_emb_N.npy or text_emb_N.npy, no "
        "feature TSV"
    )


def without(what: str, **given: object) -> None:
    """ReactvlError for an option that has no meaning for this source."""
    for name, value in given.items():
        if value is not None:
            raise ReactvlError(f"--{name} is for FAISS files; {what} say themselves what they hold")


def block_rows(dim: int, limit: int = BLOCK_BYTES) -> int:
    """How many rows of vectors are held at a time."""
    return max(256, limit // (4 * dim))
