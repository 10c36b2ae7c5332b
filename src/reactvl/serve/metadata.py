"""The pool's metadata as a service needs them: any row in microseconds, whatever the size of the pool.

Parquet is read a row group at a time: a row costs that of 65,536. So the parts' metadata are written once more, as
uncompressed Arrow IPC files of batches of 65,536 rows, and memory-mapped: a row is then a few slices of the page cache.

    CACHE/metadata_N.arrow      part N; says in its own metadata which embeddings it was made of
    CACHE/metadata.json         written last: without it, or with that of other embeddings, nothing here is used
"""

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reactvl.handles.foreign_columns import canonical, canonical_types, further, source_of
from reactvl.manifest import ReactvlError, own, replacing, write_json
from reactvl.progress import progress
from reactvl.search.hits import part_offsets
from reactvl.serve.asking import Found

if TYPE_CHECKING:
    from reactvl.handles.embeddings import Embeddings, Part

VERSION = 1
SHIFT = 16
ROWS = 1 << SHIFT  # of a batch
LOCK_SECONDS = 3600.0  # another process that converts the same metadata is waited for
MAKERS = (b"reactvl metadata", b"reactvl embeddings")


class Metadata:
    """The metadata of every row, counted over the parts in order; safe in threads.

    cache: the folder of the converted files, made here where they are missing, stale or unfinished (with a bar). Raises
    ReactvlError when it cannot be written.
    """

    def __init__(self, embeddings: "Embeddings", cache: Path):
        identity = embeddings.identity(cache).sha256
        self.numbers = np.array([part.number for part in embeddings.parts], np.int64)
        self.offsets = part_offsets([range(part.rows) for part in embeddings.parts])
        self._places = {part.number: place for place, part in enumerate(embeddings.parts)}
        paths = converted(embeddings.parts, cache, identity)
        self._files = [pa.ipc.open_file(pa.memory_map(str(path))) for path in paths]
        self._batches: dict[tuple[int, int], Batch] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self.offsets[-1])

    @property
    def columns(self) -> list[str]:
        """The names of all columns, in the order in which they are met."""
        return list(dict.fromkeys(name for file in self._files for name in file.schema.names))

    def row_of(self, part: int, row: int) -> int:
        """The row over all parts of pair (part, row); ReactvlError when there is none."""
        place = self._places.get(part)
        if place is None:
            raise ReactvlError(f"there is no part {part}; the parts are {told(list(self._places))}")
        rows = int(self.offsets[place + 1] - self.offsets[place])
        if not 0 <= row < rows:
            raise ReactvlError(f"part {part} has {rows:,} rows, none numbered {row:,}")
        return int(self.offsets[place]) + row

    def rows_of(self, part: np.ndarray, row: np.ndarray) -> np.ndarray:
        """int64 (n,): the same of many pairs, -1 for one that is not there."""
        place = np.minimum(np.searchsorted(self.numbers, part), len(self.numbers) - 1)  # the numbers ascend
        there = (self.numbers[place] == part) & (row >= 0) & (row < np.diff(self.offsets)[place])
        return np.where(there, self.offsets[place] + row, -1)

    def pairs_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(part, row), both int64 (n,), of rows over all parts."""
        place = np.searchsorted(self.offsets, rows, side="right") - 1
        return self.numbers[place], rows - self.offsets[place]

    def cursor(self, rows: np.ndarray) -> "Iterator[tuple[Batch, int]]":
        """(batch, place in it) of each row over all parts, in the order given."""
        places = np.searchsorted(self.offsets, rows, side="right") - 1
        within = rows - self.offsets[places]
        batches = self._batches
        for place, batch, at in zip(
            places.tolist(), (within >> SHIFT).tolist(), (within & (ROWS - 1)).tolist(), strict=True
        ):
            yield batches.get((place, batch)) or self._opened(place, batch), at

    def captions(self, rows: np.ndarray) -> list[str | None]:
        """The captions of rows."""
        return [batch.text("caption", at) for batch, at in self.cursor(rows)]

    def marks(self, rows: np.ndarray) -> tuple[list[bytes | None], list[bytes | None], np.ndarray]:
        """What tells copies: SHA-256 and URL (None where there is none), and uint64 perceptual hashes (0 without)."""
        hashes = np.zeros(len(rows), np.uint64)
        sums, urls = [], []
        for number, (batch, at) in enumerate(self.cursor(rows)):
            sums.append(batch.raw("sha256", at))
            urls.append(batch.bytes_of("url", at) or None)
            hashes[number] = batch.number("phash", at) or 0
        return sums, urls, hashes

    def found(
        self,
        rows: np.ndarray,
        similarity: list[float | None],
        images: list[float | None],
        texts: list[float | None],
        class_ids: list[list[int]],
    ) -> list[Found]:
        """What is shown of rows over all parts."""
        part, row = (values.tolist() for values in self.pairs_of(rows))
        hits = []
        for number, (batch, at) in enumerate(self.cursor(rows)):
            text, integer, digest = batch.text, batch.number, batch.raw("sha256", at)
            hits.append(
                Found(
                    part[number],
                    row[number],
                    similarity[number],
                    images[number],
                    texts[number],
                    class_ids[number],
                    text("caption", at),
                    text("shard", at),
                    text("key", at),
                    text("url", at),
                    integer("width", at),
                    integer("height", at),
                    digest and digest.hex(),
                )
            )
        return hits

    def all_of(self, row: int) -> dict[str, Any]:
        """Every column of one row over all parts, in values that JSON has."""
        [(batch, at)] = self.cursor(np.array([row]))
        return {name: plain(batch.value(name, at)) for name in batch.names}

    def place_of(self, row: int) -> tuple[str | None, str | None, int | None, int | None]:
        """(shard, key, offset, size) of one row over all parts: where its picture lies."""
        [(batch, at)] = self.cursor(np.array([row]))
        return batch.text("shard", at), batch.text("key", at), batch.number("offset", at), batch.number("size", at)

    def _opened(self, place: int, number: int) -> "Batch":
        with self._lock:
            if (place, number) not in self._batches:
                self._batches[place, number] = Batch(self._files[place].get_batch(number))
            return self._batches[place, number]


class Batch:
    """One batch of rows as views of its file: nothing is copied but the values asked for."""

    def __init__(self, batch: pa.RecordBatch):
        self.batch, self.names = batch, batch.schema.names
        self.texts: dict[str, tuple] = {}
        self.numbers: dict[str, tuple] = {}
        self.fixed: dict[str, tuple] = {}
        for name, column in zip(self.names, batch.columns, strict=True):
            buffers = [None if each is None else memoryview(each).cast("B") for each in column.buffers()]
            there = buffers[0] if column.null_count else None
            rows = len(column)
            if pa.types.is_large_string(column.type):
                ends = buffers[1][: 8 * (rows + 1)].cast("q") if rows else ()
                self.texts[name] = (there, ends, memoryview(b"") if buffers[2] is None else buffers[2])
            elif letter := LETTERS.get(str(column.type)):
                width = np.dtype(letter).itemsize
                self.numbers[name] = (there, buffers[1][: width * rows].cast(letter))
            elif pa.types.is_fixed_size_binary(column.type):
                self.fixed[name] = (there, buffers[1], column.type.byte_width)

    def bytes_of(self, name: str, at: int) -> bytes | None:
        """A text as it is stored; None where there is none."""
        column = self.texts.get(name)
        if column is None:
            return None
        there, ends, data = column
        if there is not None and not there[at >> 3] >> (at & 7) & 1:
            return None
        return bytes(data[ends[at] : ends[at + 1]])

    def text(self, name: str, at: int) -> str | None:
        """A text; bytes that are no UTF-8 are replaced."""
        stored = self.bytes_of(name, at)
        return None if stored is None else stored.decode("utf-8", "replace")

    def number(self, name: str, at: int) -> int | None:
        """An integer; None where there is none."""
        column = self.numbers.get(name)
        if column is None:
            return None
        there, values = column
        return None if there is not None and not there[at >> 3] >> (at & 7) & 1 else values[at]

    def raw(self, name: str, at: int) -> bytes | None:
        """A value of fixed width; None where there is none."""
        column = self.fixed.get(name)
        if column is None:
            return None
        there, data, width = column
        if there is not None and not there[at >> 3] >> (at & 7) & 1:
            return None
        return bytes(data[width * at : width * (at + 1)])

    def value(self, name: str, at: int) -> Any:
        """Any column's value."""
        if name in self.texts:
            return self.text(name, at)
        return self.batch.column(name)[at].as_py()


LETTERS = {"int64": "q", "uint64": "Q", "int32": "i"}


def converted(parts: "Sequence[Part]", cache: Path, identity: str) -> list[Path]:
    """The parts' metadata as Arrow files in `cache`, converted where they are not there yet.

    A part that an interrupted conversion finished is kept. Raises ReactvlError when the folder cannot be written.
    """
    paths = [cache / f"metadata_{part.number}.arrow" for part in parts]
    said = {"version": VERSION, "embeddings": identity, "rows": [part.rows for part in parts]}
    if whole(cache, paths, said):
        return paths
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with own(cache / ".lock", LOCK_SECONDS) as free:
            if not free:
                raise ReactvlError(f"{cache}: another process has been writing here for an hour; stop it, or remove it")
            if whole(cache, paths, said):
                return paths
            (cache / "metadata.json").unlink(missing_ok=True)
            for stray in [*cache.glob("metadata_*.arrow"), *cache.glob(".*.part")]:
                if stray not in paths:
                    stray.unlink()
            with progress("metadata", sum(part.rows for part in parts), "rows") as bar:
                for part, path in zip(parts, paths, strict=True):
                    if finished(path, identity, part.rows):
                        bar.advance(part.rows, resumed=True)
                    else:
                        convert(part, path, identity, bar.advance)
            write_json(cache / "metadata.json", said | {"bytes": [path.stat().st_size for path in paths]})
    except OSError as fault:
        raise ReactvlError(
            f"{cache}: the metadata cannot be kept here ({fault.strerror or str(fault).splitlines()[0]})"
        ) from None
    return paths


def whole(cache: Path, paths: list[Path], said: dict[str, Any]) -> bool:
    """Whether the folder holds all files of just these embeddings."""
    try:
        known = json.loads((cache / "metadata.json").read_text())
        sizes = known.pop("bytes")
        return known == said and sizes == [path.stat().st_size for path in paths]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False


def finished(path: Path, identity: str, rows: int) -> bool:
    """Whether a part's file was written whole, of these embeddings, by this version."""
    try:
        with pa.memory_map(str(path)) as map_, pa.ipc.open_file(map_) as file:
            said = file.schema.metadata or {}
            batches = file.num_record_batches
            left = file.get_batch(batches - 1).num_rows if batches else 0
            return said == stamp(identity) and max(batches - 1, 0) * ROWS + left == rows
    except (OSError, pa.ArrowInvalid):
        return False


def stamp(identity: str) -> dict[bytes, bytes]:
    return dict(zip(MAKERS, (str(VERSION).encode(), identity.encode()), strict=True))


def convert(part: "Part", path: Path, identity: str, advance) -> None:
    """Write one part's metadata in batches of `ROWS` rows, in the memory of a few of them."""
    try:
        with pq.ParquetFile(part.metadata_path, memory_map=True) as source:
            names = wanted(source.schema_arrow.names)
            held, rows = [], 0
            with replacing(path) as temporary, pa.OSFile(str(temporary), "wb") as sink:
                writer = None
                for batch in source.iter_batches(ROWS, columns=needed(names, source.schema_arrow.names)):
                    held.append(stored(canonical(pa.table(batch), names)))
                    rows += batch.num_rows
                    if writer is None:
                        schema = held[0].schema.with_metadata(stamp(identity))
                        writer = pa.ipc.new_file(sink, schema)
                    while rows >= ROWS:
                        table = pa.concat_tables(held)
                        write(writer, table.slice(0, ROWS))
                        held, rows = [table.slice(ROWS)], rows - ROWS
                        advance(ROWS)
                if writer is None:
                    empty = stored(canonical(source.schema_arrow.empty_table(), names))
                    writer = pa.ipc.new_file(sink, empty.schema.with_metadata(stamp(identity)))
                if rows:
                    write(writer, pa.concat_tables(held))
                    advance(rows)
                writer.close()
    except pa.ArrowInvalid as fault:
        raise ReactvlError(f"{part.metadata_path}: cannot be read ({str(fault).splitlines()[0]})") from None


def write(writer: pa.ipc.RecordBatchFileWriter, table: pa.Table) -> None:
    """Append a table as one batch."""
    writer.write_batch(table.combine_chunks().to_batches()[0])


def wanted(names: list[str]) -> list[str]:
    """Our names of a file's columns, the further ones after them."""
    return [*(column for column in canonical_types() if source_of(column, names)), *further(names)]


def needed(columns: list[str], names: list[str]) -> list[str]:
    return [source_of(column, names) for column in columns]


def stored(table: pa.Table) -> pa.Table:
    """The table with texts whose batch may hold over 2 GB, and without dictionaries."""
    fields = []
    for field in table.schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        kind = (
            pa.large_string() if pa.types.is_string(kind) else pa.large_binary() if pa.types.is_binary(kind) else kind
        )
        fields.append(pa.field(field.name, kind))
    return table.cast(pa.schema(fields))


def plain(value: Any) -> Any:
    """A value in what JSON has: bytes as hex, what is not finite as null, other things, and integers that JavaScript cannot
    hold, as text."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if abs(value) < 1 << 53 else str(value)
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return str(value)


def told(numbers: list[int]) -> str:
    """`0 to 3`, or `0, 4, 7`, a few of them."""
    if len(numbers) > 1 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
