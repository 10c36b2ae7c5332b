"""What a piece of the source became, as files in the stage's work folder: whole with its head, or not there.

N.arrow holds the rows (float16 vectors and metadata), N.skipped.parquet the rows that were left out, and N.json, written
last, the counts.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reactvl.importing.source import Dropped
from reactvl.manifest import replacing, write_json
from reactvl.pool.embeddings_format import SKIPPED_SCHEMA


class Head(NamedTuple):
    """Rows, dropped rows by reason, rows of each shard, and the smallest and largest norm that the vectors came with."""

    rows: int
    skipped: dict[str, int]
    shards: dict[str, int]
    norms: list[float] | None


class Piece:
    """The files of one piece."""

    def __init__(self, folder: Path, number: int):
        self.rows, self.skipped, self.about = (
            folder / f"{number:06d}{ending}" for ending in (".arrow", ".skipped.parquet", ".json")
        )

    def head(self) -> Head | None:
        """What the piece holds; None when it is not done."""
        try:
            return Head(**json.loads(self.about.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def schema(self) -> pa.Schema | None:
        """The columns of its metadata; None when it has no rows."""
        if not self.rows.exists():
            return None
        with pa.memory_map(str(self.rows)) as file:
            schema = pa.ipc.open_file(file).schema
        return pa.schema([field for field in schema if not field.name.startswith(VECTORS)])

    def blocks(self) -> Iterator[tuple[np.ndarray | None, np.ndarray | None, pa.Table]]:
        """Its rows again: float16 (n, dim) image and text vectors, and metadata."""
        with pa.memory_map(str(self.rows)) as file:
            reader = pa.ipc.open_file(file)
            for number in range(reader.num_record_batches):
                table = pa.Table.from_batches([reader.get_batch(number)])
                halves = []
                for half in ("image", "text"):
                    name = VECTORS + half
                    if name in table.column_names:
                        halves.append(matrix(table[name].chunk(0)))
                        table = table.drop_columns([name])
                    else:
                        halves.append(None)
                yield *halves, table


VECTORS = "vectors:"  # no metadata column of ours or of others' starts like this


def matrix(column: pa.FixedSizeListArray) -> np.ndarray:
    return column.flatten().to_numpy(zero_copy_only=True).reshape(len(column), column.type.list_size)


class PieceWriter:
    """Writes a piece block by block; a context manager, at whose end the piece is whole."""

    def __init__(self, piece: Piece, source: str):
        self.piece, self.source = piece, source
        self.count, self.reasons, self.shards = 0, Counter(), Counter()
        self.norms: list[float] | None = None
        self._writer: pa.ipc.RecordBatchFileWriter | None = None

    def __enter__(self):
        with contextlib.ExitStack() as files:
            self._skipped = files.enter_context(
                pq.ParquetWriter(files.enter_context(replacing(self.piece.skipped)), SKIPPED_SCHEMA, compression="zstd")
            )
            self._files = files.pop_all()
        return self

    def add(self, images: np.ndarray | None, texts: np.ndarray | None, metadata: pa.Table) -> None:
        """Rows of float16 (n, dim) vectors; every block has the same columns."""
        if not metadata.num_rows:
            return
        for half, vectors in (("image", images), ("text", texts)):
            if vectors is not None:
                flat = pa.array(np.ascontiguousarray(vectors, np.float16).reshape(-1), pa.float16())
                column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
                metadata = metadata.append_column(VECTORS + half, column)
        if self._writer is None:
            file = self._files.enter_context(
                pa.OSFile(str(self._files.enter_context(replacing(self.piece.rows))), "wb")
            )
            self._writer = self._files.enter_context(pa.ipc.new_file(file, metadata.schema))
        self._writer.write_table(metadata.combine_chunks())
        self.count += metadata.num_rows
        for entry in metadata["shard"].combine_chunks().value_counts():
            if (name := entry["values"].as_py()) is not None:
                self.shards[name] += entry["counts"].as_py()

    def drop(self, dropped: list[Dropped]) -> None:
        """List rows that are left out."""
        if dropped:
            rows = [{"shard": self.source, **entry._asdict()} for entry in dropped]
            self._skipped.write_table(pa.Table.from_pylist(rows, schema=SKIPPED_SCHEMA))
            self.reasons.update(entry.reason for entry in dropped)

    def seen(self, norms: np.ndarray) -> None:
        """Norms (n,) of vectors as they came."""
        if len(norms):
            known = self.norms or [float("inf"), 0.0]
            self.norms = [min(known[0], float(norms.min())), max(known[1], float(norms.max()))]

    def __exit__(self, kind: Any, fault: Any, trace: Any) -> None:
        self._files.__exit__(kind, fault, trace)
        if kind is None:
            head = Head(self.count, dict(sorted(self.reasons.items())), dict(sorted(self.shards.items())), self.norms)
            write_json(self.piece.about, head._asdict())
