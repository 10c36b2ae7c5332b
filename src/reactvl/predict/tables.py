"""Writers of predictions: parquet, CSV and JSON lines, a batch at a time; a file is whole or absent."""

import abc
import contextlib
import csv
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from reactvl.manifest import ReactvlError, replacing

STDOUT = "-"


class Row(NamedTuple):
    """An image, its class (None where none is likely enough), and its likeliest classes, best first: (class,
    probability) each."""

    path: str
    name: str | None
    ranked: list[tuple[str, float]]


class Table(abc.ABC):
    """A file of predictions while it is written: a context manager; `count` rows so far."""

    def __init__(self, path: Path):
        self.path, self.count = path, 0
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        self.part = self.stack.enter_context(replacing(self.path))
        self.open(self.part)
        return self

    def __exit__(self, *fault):
        return self.stack.__exit__(*fault)

    def write(self, rows: Iterable[Row]) -> None:
        rows = list(rows)
        if rows:
            self.add(rows)
            self.count += len(rows)

    @abc.abstractmethod
    def open(self, part: Path) -> None:
        """Begin the file."""

    @abc.abstractmethod
    def add(self, rows: list[Row]) -> None:
        """Append rows."""


class CsvTable(Table):
    """UTF-8 CSV: path, class (empty for none), probability, top5 as `red panda:0.913; raccoon:0.052`."""

    def open(self, part: Path) -> None:
        self.lines = csv.writer(self.stack.enter_context(text_file(part)))
        self.lines.writerow(["path", "class", "probability", "top5"])

    def add(self, rows: list[Row]) -> None:
        for path, chosen, ranked in rows:
            top5 = "; ".join(f"{name}:{chance:.3f}" for name, chance in ranked)
            self.lines.writerow([path, chosen or "", f"{ranked[0][1]:.6f}", top5])


class ParquetTable(Table):
    """Parquet: path, class, probability (float32), top5 (list of {class, probability})."""

    def open(self, part: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        choice = pa.struct([("class", pa.string()), ("probability", pa.float32())])
        columns = [
            ("path", pa.string()),
            ("class", pa.string()),
            ("probability", pa.float32()),
            ("top5", pa.list_(choice)),
        ]
        self.schema = pa.schema(columns)
        self.file = self.stack.enter_context(pq.ParquetWriter(part, self.schema, compression="zstd"))
        self.rows: list[dict[str, Any]] = []
        self.stack.callback(self.flush)

    def add(self, rows: list[Row]) -> None:
        self.rows += [entry(row) for row in rows]
        if len(self.rows) >= ROW_GROUP:
            self.flush()

    def flush(self) -> None:
        import pyarrow as pa

        if self.rows:
            self.file.write_table(pa.Table.from_pylist(self.rows, self.schema))
            self.rows = []


ROW_GROUP = 16_384


class JsonTable(Table):
    """JSON lines, UTF-8: {"path", "class" (null for none), "probability", "top5": [{"class", "probability"}, ...]}."""

    def open(self, part: Path) -> None:
        self.file = self.stack.enter_context(text_file(part))

    def add(self, rows: list[Row]) -> None:
        self.file.writelines(line(row) for row in rows)


class Printed(Table):
    """The same lines on standard output, as they come."""

    def __enter__(self):
        return self

    def open(self, part: Path) -> None:
        """Standard output is open."""

    def add(self, rows: list[Row]) -> None:
        sys.stdout.writelines(line(row) for row in rows)
        sys.stdout.flush()


def line(row: Row) -> str:
    return json.dumps(entry(row), ensure_ascii=False) + "\n"


def entry(row: Row) -> dict[str, Any]:
    """A row as nested values; a file name that is no UTF-8 can stand in none of these files, and is written with `?`."""
    return {
        "path": row.path.encode("utf-8", "replace").decode(),
        "class": row.name,
        "probability": row.ranked[0][1],
        "top5": [{"class": name, "probability": chance} for name, chance in row.ranked],
    }


class Skipped(abc.ABC):
    """What could not be read, while it is listed: a context manager; `first` (path, reason) is the first of `count`."""

    where = ""

    def __init__(self) -> None:
        self.count, self.first = 0, ("", "")
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *fault):
        return self.stack.__exit__(*fault)

    def write(self, rows: list[tuple[str, str]]) -> None:
        if rows and not self.count:
            self.first = rows[0]
            self.begin()
        for path, reason in rows:
            self.add(path, reason)
        self.count += len(rows)

    def begin(self) -> None:  # noqa: B027 - not every list has a head
        """There is something to list."""

    @abc.abstractmethod
    def add(self, path: str, reason: str) -> None:
        """List one."""


class SkippedList(Skipped):
    """`OUT.skipped.csv`, path and reason; absent when nothing was skipped."""

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.where = path, f"in {path}"

    def __exit__(self, *fault):
        if not self.count and fault[0] is None:
            self.path.unlink(missing_ok=True)  # an earlier run's list does not belong to the new file
        return super().__exit__(*fault)

    def begin(self) -> None:
        part = self.stack.enter_context(replacing(self.path))
        self.lines = csv.writer(self.stack.enter_context(text_file(part)))
        self.lines.writerow(["path", "reason"])

    def add(self, path: str, reason: str) -> None:
        self.lines.writerow([path, reason])


class SkippedAloud(Skipped):
    """Lines on standard error, where the predictions go to standard output."""

    where = "above"

    def add(self, path: str, reason: str) -> None:
        tell(f"predict: {path} skipped ({reason})")


def tell(text: str) -> None:
    """A line that is no result, beside results on standard output."""
    print(text, file=sys.stderr, flush=True)


def text_file(path: Path) -> TextIO:
    return path.open("w", newline="", encoding="utf-8", errors="replace")


def skipped_list(out: Path) -> Skipped:
    return SkippedAloud() if str(out) == STDOUT else SkippedList(out.with_name(out.name + ".skipped.csv"))


def writer(path: Path, overwrite: bool) -> Table:
    """The writer that the file's extension asks for; ReactvlError for another extension and for a file that is
    there."""
    if str(path) == STDOUT:
        return Printed(path)
    kinds = {".csv": CsvTable, ".parquet": ParquetTable, ".jsonl": JsonTable, ".ndjson": JsonTable}
    if path.suffix.lower() not in kinds:
        raise ReactvlError(f"{path}: --out takes a .parquet, a .csv or a .jsonl file, or - for standard output")
    if path.is_dir():
        raise ReactvlError(f"{path}: is a folder; --out takes a file")
    if path.exists() and not overwrite:
        raise ReactvlError(f"{path}: exists; pass --overwrite or choose another --out")
    return kinds[path.suffix.lower()](path)
