"""The released code's features as a source: a TSV a shard, a line a pair.

`00000.tsv` holds key, SHA-256, and the image's and the text's float16 vector in base64, not normalised, between tabs;
beside it lie `00000.lineidx` (a byte offset a line) and `metafile.json` (rows of each shard). See REFERENCE.md,
section 4. Lines are read one by one: the side files only tell whether a TSV is whole.
"""

import base64
import binascii
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from reactvl.handles.foreign_columns import as_bytes, canonical, canonical_types
from reactvl.importing.source import Block, Dropped, Source, block_rows
from reactvl.manifest import ReactvlError

MAX_LINE = 1 << 20  # bytes; two vectors of 1,280 dimensions take 7,000
META = "metafile.json"
FIRST_LINES = 100  # that are looked at for the width


class FeatureSource(Source):
    """A folder of feature TSVs; a TSV is a piece, in sorted order.

    A TSV that has other rows than its side files say is listed in `skipped.parquet`, under the shard and no key; its
    whole lines are taken. Raises ReactvlError when no line of the first TSV can be read, or the metafile is none.
    """

    kind = "feature TSVs"
    unit = "MB"
    halves = ("image", "text")

    def __init__(self, folder: Path):
        self.home = folder
        self.tables = sorted(folder.glob("*.tsv"))
        self.files = [*self.tables, *sorted(folder.glob("*.lineidx")), *folder.glob(META)]
        self.pieces = [path.stem for path in self.tables]
        self.stated = stated_rows(folder / META)
        lost = sorted(self.stated.keys() - set(self.pieces))
        if lost:
            raise ReactvlError(f"{folder / META}: names shard {lost[0]}, but {lost[0]}.tsv is not there")
        self.dim = width(self.tables)
        self.size = sum(path.stat().st_size for path in self.tables) // MEGABYTE
        self.facts = {}
        self.shards = self.pieces

    def sought(self, piece: int) -> str:
        return self.pieces[piece]

    def blocks(self, piece: int) -> Iterator[Block]:
        path, limit = self.tables[piece], block_rows(self.dim)
        rows, dropped, seen, done, shown = [], [], set(), 0, 0
        count = 0
        for count, line in enumerate(lines(path), 1):
            done += len(line)
            row = parsed(line, count, self.dim, seen)
            (dropped if isinstance(row, Dropped) else rows).append(row)
            if len(rows) + len(dropped) >= limit:
                yield self._block(piece, rows, dropped, done // MEGABYTE - shown)
                rows, dropped, shown = [], [], done // MEGABYTE
        dropped += self._faults(piece, count)
        yield self._block(piece, rows, dropped, path.stat().st_size // MEGABYTE - shown)

    def _block(self, piece: int, rows: list[tuple], dropped: list[Dropped], done: int) -> Block:
        columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
        images, texts = (np.array(column, np.float16).reshape(len(rows), self.dim) for column in columns[2:])
        named = pa.table(
            {
                "key": pa.array(columns[0], pa.string()),
                "shard": pa.array([self.pieces[piece]] * len(rows), pa.string()),
                "sha256": pa.array(columns[1], canonical_types()["sha256"]),
            }
        )
        return Block(images, texts, canonical(named, list(canonical_types())), dropped, done)

    def _faults(self, piece: int, count: int) -> list[Dropped]:
        """Where the side files speak of another number of rows."""
        name = self.pieces[piece]
        index = self.tables[piece].with_suffix(".lineidx")
        said = {META: self.stated.get(name), index.name: count_lines(index) if index.is_file() else None}
        return [
            Dropped("", "other row count", f"{name}.tsv has {count:,} lines, {source} says {rows:,}: is it whole?")
            for source, rows in said.items()
            if rows is not None and rows != count
        ]


MEGABYTE = 1_000_000


def parsed(line: bytes, number: int, dim: int, seen: set[str]) -> tuple | Dropped:
    """(key, SHA-256 or None, image vector, text vector) of a line, or why it is left out."""
    at = f"line {number:,}"
    if len(line) > MAX_LINE:
        return Dropped("", "oversized line", f"{at} is longer than {MAX_LINE:,} bytes")
    fields = line.rstrip(b"\r\n").split(b"\t")
    key = text(fields[0])
    if len(fields) != 4:
        return Dropped(key or "", "wrong columns", f"{at} has {len(fields)} columns, wanted 4")
    if not key:
        return Dropped("", "missing key", f"{at} has no key" if not fields[0] else f"the key of {at} is not UTF-8")
    if key in seen:
        return Dropped(key, "duplicate key", f"{at}: the TSV has an earlier row of this key, which is kept")
    vectors = []
    for name, field in zip(("image", "text"), fields[2:], strict=True):
        data = decoded(field)
        if data is None:
            return Dropped(key, "bad base64", f"{at}: its {name} vector is no base64")
        if len(data) != 2 * dim:
            return Dropped(key, "wrong width", f"{at}: its {name} vector has {len(data):,} bytes, wanted {2 * dim:,}")
        vectors.append(np.frombuffer(data, "<f2"))
    seen.add(key)
    return key, as_bytes(text(fields[1]), 32), *vectors


def lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, ends included; of a longer one than MAX_LINE its first MAX_LINE + 1 bytes."""
    with open(path, "rb", buffering=1 << 20) as file:
        while line := file.readline(MAX_LINE + 1):
            more = line
            while len(more) > MAX_LINE and not more.endswith(b"\n"):
                more = file.readline(MAX_LINE + 1)
            yield line


def decoded(field: bytes) -> bytes | None:
    try:
        return base64.b64decode(field, validate=True)
    except binascii.Error:
        return None


def text(field: bytes) -> str | None:
    try:
        return field.decode()
    except UnicodeDecodeError:
        return None


def width(tables: list[Path]) -> int:
    """The dimensions that most of the first lines have."""
    sizes: list[int] = []
    for path in tables:
        for line, _ in zip(lines(path), range(FIRST_LINES), strict=False):
            fields = line.rstrip(b"\r\n").split(b"\t")
            if len(fields) == 4 and (data := decoded(fields[2])) and len(data) % 2 == 0:
                sizes.append(len(data) // 2)
        if sizes:
            return max(set(sizes), key=sizes.count)
    raise ReactvlError(
        f"{tables[0]}: no line is `key, SHA-256, base64 of the image vector, base64 of the text vector` between tabs"
    )


def stated_rows(path: Path) -> dict[str, int]:
    """Rows of each shard by its name up to the first dot, as the metafile says; nothing without one."""
    if not path.is_file():
        return {}
    try:
        stated = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        stated = None
    if not isinstance(stated, dict) or not all(isinstance(rows, int) for rows in stated.values()):
        raise ReactvlError(f"{path}: is no json object of shard -> rows; mend it, or move it away to import without it")
    return {Path(name).name.partition(".")[0]: rows for name, rows in stated.items()}


def count_lines(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
