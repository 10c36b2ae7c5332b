"""The layout of an embeddings folder, which is clip-retrieval's and LAION's, and the writer of its parts.

img_emb/img_emb_N.npy           float16 (rows, dim), rows L2-normalised
text_emb/text_emb_N.npy         the same of the captions
metadata/metadata_N.parquet     row i is the pair of row i in both
shards.parquet                  one row a shard: its fingerprint, and the part and rows it went to
skipped.parquet                 one row a sample that was left out: shard, key, reason, detail
"""

import contextlib
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


def images_path(folder: Path | str, part: int) -> Path:
    return Path(folder) / IMAGES / f"{IMAGES}_{part}.npy"


def texts_path(folder: Path | str, part: int) -> Path:
    return Path(folder) / TEXTS / f"{TEXTS}_{part}.npy"


def metadata_path(folder: Path | str, part: int) -> Path:
    return Path(folder) / METADATA / f"{METADATA}_{part}.parquet"


class PartWriter:
    """Writes one part of `rows` rows piece by piece, in the memory of a piece; a context manager.

    The three files appear together at the end of the `with`; ValueError when the pieces have not summed to `rows`.
    """

    def __init__(self, folder: Path | str, part: int, rows: int, dim: int):
        self.folder, self.part, self.rows, self.dim = Path(folder), part, int(rows), int(dim)
        self.written = 0
        self._held: list[pa.Table] = []

    def __enter__(self):
        with contextlib.ExitStack() as files:
            paths = [
                files.enter_context(replacing(path(self.folder, self.part)))
                for path in (images_path, texts_path, metadata_path)
            ]
            self._images, self._texts = (files.enter_context(open(path, "wb")) for path in paths[:2])
            for file in (self._images, self._texts):
                header = {"descr": "<f2", "fortran_order": False, "shape": (self.rows, self.dim)}
                np.lib.format.write_array_header_1_0(file, header)
            self._metadata = files.enter_context(pq.ParquetWriter(paths[2], METADATA_SCHEMA, compression="zstd"))
            files.push(self._check)
            self._files = files.pop_all()
        return self

    def __exit__(self, *fault):
        return self._files.__exit__(*fault)

    def add(self, images: np.ndarray, texts: np.ndarray, metadata: pa.Table) -> None:
        """Append float16 (n, dim) image and text vectors and their n rows of metadata."""
        if images.shape != (metadata.num_rows, self.dim) or texts.shape != images.shape:
            raise ValueError(
                f"{images.shape} images, {texts.shape} texts and {metadata.num_rows} rows are not one piece"
            )
        self._images.write(np.ascontiguousarray(images, dtype="<f2"))
        self._texts.write(np.ascontiguousarray(texts, dtype="<f2"))
        self._held.append(metadata.cast(METADATA_SCHEMA))
        self.written += metadata.num_rows
        if sum(table.num_rows for table in self._held) >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            self._metadata.write_table(pa.concat_tables(self._held).combine_chunks(), row_group_size=ROW_GROUP)
            self._held = []

    def _check(self, kind, fault, trace) -> None:
        """Runs first when the `with` ends."""
        if kind is None:
            self._flush()
            if self.written != self.rows:
                raise ValueError(f"part {self.part}: {self.written} of {self.rows} rows were written")


def write_table(path: Path | str, table: pa.Table) -> None:
    """Write a small parquet file whole or not at all."""
    with replacing(path) as part:
        pq.write_table(table, part, compression="zstd")
