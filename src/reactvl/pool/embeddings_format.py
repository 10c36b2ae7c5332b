"""The layout of an embeddings folder, which is clip-retrieval's and LAION's, and the writer of its parts.

img_emb/img_emb_N.npy           float16 (rows, dim), rows L2-normalised
text_emb/text_emb_N.npy         the same of the captions
metadata/metadata_N.parquet     row i is the pair of row i in both; after our columns the samples' own fields (`fields.py`)
shards.parquet                  one row a shard: its fingerprint, and the part and rows it went to
skipped.parquet                 one row a sample that was left out: shard, key, reason, detail
"""

import contextlib
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reactvl.manifest import replacing

IMAGES, TEXTS, METADATA = "img_emb", "text_emb", "metadata"
SHARDS, SKIPPED = "shards.parquet", "skipped.parquet"
ROW_GROUP = 65_536  # rows of metadata that are held and compressed together

METADATA_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("caption", pa.string()),
        ("url", pa.string()),
        ("sha256", pa.binary(32)),
        ("phash", pa.uint64()),
        ("ext", pa.string()),
        ("width", pa.int32()),  # of the picture as decoded, in pixels
        ("height", pa.int32()),
    ]
)
SHARDS_SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("path", pa.string()),
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("ends_sha256", pa.string()),
        ("part", pa.int32()),
        ("first_row", pa.int64()),
        ("rows", pa.int64()),
    ]
)
SKIPPED_SCHEMA = pa.schema([(name, pa.string()) for name in ("shard", "key", "reason", "detail")])


def parts_of(rows: Sequence[int], part_rows: int) -> list[list[int]]:
    """Numbers of shards, by their rows, in runs of at most `part_rows` rows; a shard above that is a part of its own."""
    parts, held = [[]], 0
    for number, count in enumerate(rows):
        if held and held + count > part_rows:
            parts.append([])
            held = 0
        parts[-1].append(number)
        held += count
    return parts


def images_path(folder: Path | str, part: int) -> Path:
    return Path(folder) / IMAGES / f"{IMAGES}_{part}.npy"


def texts_path(folder: Path | str, part: int) -> Path:
    return Path(folder) / TEXTS / f"{TEXTS}_{part}.npy"


def metadata_path(folder: Path | str, part: int) -> Path:
    return Path(folder) / METADATA / f"{METADATA}_{part}.parquet"


class PartWriter:
    """Writes one part of `rows` rows piece by piece, in the memory of a piece; a context manager.

    `schema` is that of the metadata, `halves` which of "image" and "text" the part has. The files appear together at the
    end of the `with`; ValueError when the pieces have not summed to `rows`.
    """

    def __init__(
        self,
        folder: Path | str,
        part: int,
        rows: int,
        dim: int,
        schema: pa.Schema = METADATA_SCHEMA,
        halves: Collection[str] = ("image", "text"),
    ):
        self.folder, self.part, self.rows, self.dim = Path(folder), part, int(rows), int(dim)
        self.schema, self.halves = schema, tuple(halves)
        self.written = 0
        self._held: list[pa.Table] = []

    def __enter__(self):
        with contextlib.ExitStack() as files:
            paths = {"image": images_path, "text": texts_path}
            self._vectors = {}
            for half in self.halves:
                path = files.enter_context(replacing(paths[half](self.folder, self.part)))
                self._vectors[half] = file = files.enter_context(open(path, "wb"))
                header = {"descr": "<f2", "fortran_order": False, "shape": (self.rows, self.dim)}
                np.lib.format.write_array_header_1_0(file, header)
            path = files.enter_context(replacing(metadata_path(self.folder, self.part)))
            self._metadata = files.enter_context(pq.ParquetWriter(path, self.schema, compression="zstd"))
            # metadata are compressed beside the writing of vectors: each takes as long as the other
            self._beside = files.enter_context(ThreadPoolExecutor(1, "metadata"))
            self._flushed: Future | None = None
            files.push(self._check)
            self._files = files.pop_all()
        return self

    def __exit__(self, *fault):
        return self._files.__exit__(*fault)

    def add(self, images: np.ndarray | None, texts: np.ndarray | None, metadata: pa.Table) -> None:
        """Append float16 (n, dim) image and text vectors, None for a half that the part lacks, and their n rows of
        metadata."""
        for half, vectors in (("image", images), ("text", texts)):
            given, wanted = None if vectors is None else vectors.shape, (metadata.num_rows, self.dim)
            if given != (wanted if half in self.halves else None):
                raise ValueError(f"{half} vectors of shape {given} and {metadata.num_rows} rows are not one piece")
        self._held.append(metadata.cast(self.schema))
        self.written += metadata.num_rows
        if sum(table.num_rows for table in self._held) >= ROW_GROUP:
            self._flush()
        for half, vectors in (("image", images), ("text", texts)):
            if half in self.halves:
                self._vectors[half].write(np.ascontiguousarray(vectors, dtype="<f2"))

    def _flush(self) -> None:
        self._wait()
        if self._held:
            held, self._held = self._held, []
            self._flushed = self._beside.submit(self._write_metadata, held)

    def _write_metadata(self, held: list[pa.Table]) -> None:
        self._metadata.write_table(pa.concat_tables(held).combine_chunks(), row_group_size=ROW_GROUP)

    def _wait(self) -> None:
        if self._flushed:
            self._flushed.result()
            self._flushed = None

    def _check(self, kind, fault, trace) -> None:
        """Runs first when the `with` ends."""
        if kind is None:
            self._flush()
            self._wait()
            if self.written != self.rows:
                raise ValueError(f"part {self.part}: {self.written} of {self.rows} rows were written")


def write_table(path: Path | str, table: pa.Table) -> None:
    """Write a small parquet file whole or not at all."""
    with replacing(path) as part:
        pq.write_table(table, part, compression="zstd")
