"""Published npy folders as a source: a part is a piece."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from reactvl.handles import foreign
from reactvl.handles.foreign_columns import read_columns
from reactvl.importing.metadata_rows import MetadataRows
from reactvl.importing.source import Block, Source, block_rows
from reactvl.manifest import ReactvlError

KINDS = ("float16", "float32", "float64")


class PublishedSource(Source):
    """Parts of clip-retrieval's or LAION's naming; vectors may be float16, float32 or float64 of any norm.

    Raises ReactvlError for files that disagree in rows or width, and for what foreign.parts_of refuses.
    """

    kind = "published embeddings"

    def __init__(self, folder: Path):
        self.home = folder
        self.parts = foreign.parts_of(folder)
        self.rows, widths, halves = [], {}, []
        for part in self.parts:
            counts = {part.metadata: len(MetadataRows([part.metadata]))}
            for path in filter(None, (part.images, part.texts)):
                shape = shape_of(path)
                widths[shape[1]] = path
                counts[path] = shape[0]
            if len(set(counts.values())) > 1:
                told = ", ".join(f"{path.name} {count:,}" for path, count in counts.items())
                raise ReactvlError(
                    f"{folder}: the files of part {part.number} have unequal rows ({told}); fetch them again"
                )
            self.rows.append(counts[part.metadata])
            halves.append(tuple(half for half, path in (("image", part.images), ("text", part.texts)) if path))
        if len(widths) > 1:
            told = ", ".join(f"{path.name} {width}" for width, path in sorted(widths.items()))
            raise ReactvlError(f"{folder}: vectors of several widths ({told}); these are of several models")
        if len(set(halves)) > 1:
            odd = next(number for number, half in enumerate(halves) if half != halves[0])
            raise ReactvlError(
                f"{folder}: part {self.parts[odd].number} has {' and '.join(halves[odd])} vectors, part "
                f"{self.parts[0].number} {' and '.join(halves[0])}; fetch what is missing, or move the odd half away"
            )
        self.dim, self.halves = next(iter(widths)), halves[0]
        self.files = [path for part in self.parts for path in part[1:] if path]
        self.pieces = [part.metadata.stem for part in self.parts]
        self.size, self.unit = sum(self.rows), "rows"
        self.facts = {}

    def blocks(self, piece: int) -> Iterator[Block]:
        part = self.parts[piece]
        images, texts = (path and np.load(path, mmap_mode="r", allow_pickle=False) for path in part[1:3])
        first = 0
        for table in MetadataRows([part.metadata]).blocks(0, self.rows[piece], block_rows(self.dim)):
            last = first + table.num_rows
            vectors = (None if half is None else half[first:last] for half in (images, texts))
            yield Block(*vectors, table, [], table.num_rows)
            first = last

    def sought(self, piece: int) -> pa.Array:
        return read_columns(self.parts[piece].metadata, ["key"])["key"].combine_chunks()


def shape_of(path: Path) -> tuple[int, int]:
    """The shape of a whole npy file of floats; ReactvlError for any other."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as fault:
        raise ReactvlError(f"{path}: is no whole npy file ({fault}); fetch it again") from None
    if array.dtype not in KINDS or array.ndim != 2:
        raise ReactvlError(
            f"{path}: holds {array.dtype} of shape {array.shape}, wanted (rows, dim) of {', '.join(KINDS)}"
        )
    return array.shape
