"""Writers of predictions: parquet and CSV, a batch at a time, whole or not at all."""

import abc
import contextlib
import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from reactvl.manifest import ReactvlError, replacing


class Row(NamedTuple):
    """An image and its likeliest classes, best first: (class, probability) each."""

    path: str
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
    """UTF-8 CSV: path, class, probability, top5 as `red panda:0.913; raccoon:0.052`."""

    def open(self, part: Path) -> None:
        self.lines = csv.writer(self.stack.enter_context(text_file(part)))
        self.lines.writerow(["path", "class", "probability", "top5"])

    def add(self, rows: list[Row]) -> None:
        for path, ranked in rows:
            top5 = "; ".join(f"{name}:{chance:.3f}" for name, chance in ranked)
            self.lines.writerow([path, ranked[0][0], f"{ranked[0][1]:.6f}", top5])


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
        for path, ranked in rows:
            top5 = [{"class": name, "probability": chance} for name, chance in ranked]
            path = path.encode("utf-8", "replace").decode()  # a file name that is no UTF-8 cannot stand in parquet
            self.rows.append({"path": path, "class": ranked[0][0], "probability": ranked[0][1], "top5": top5})
        if len(self.rows) >= ROW_GROUP:
            self.flush()

    def flush(self) -> None:
        import pyarrow as pa

        if self.rows:
            self.file.write_table(pa.Table.from_pylist(self.rows, self.schema))
            self.rows = []


ROW_GROUP = 16_384


class SkippedList:
    """`OUT.skipped.csv`, path and reason; absent when nothing was skipped. `first` is the first of them."""

    def __init__(self, path: Path):
        self.path, self.count, self.first = path, 0, ("", "")
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *fault):
        if not self.count and fault[0] is None:
            self.path.unlink(missing_ok=True)  # an earlier run's list does not belong to the new file
        return self.stack.__exit__(*fault)

    def write(self, rows: list[tuple[Path, str]]) -> None:
        if rows and not self.count:
            self.first = (str(rows[0][0]), rows[0][1])
            part = self.stack.enter_context(replacing(self.path))
            file = self.stack.enter_context(text_file(part))
            self.lines = csv.writer(file)
            self.lines.writerow(["path", "reason"])
        for path, reason in rows:
            self.lines.writerow([str(path), reason])
        self.count += len(rows)


def text_file(path: Path) -> TextIO:
    return path.open("w", newline="", encoding="utf-8", errors="replace")


def writer(path: Path, overwrite: bool) -> Table:
    """The writer that the file's extension asks for; ReactvlError for another extension and for a file that is
    there."""
    kinds = {".csv": CsvTable, ".parquet": ParquetTable}
    if path.suffix.lower() not in kinds:
        raise ReactvlError(f"{path}: --out takes a .parquet or a .csv file")
    if path.is_dir():
        raise ReactvlError(f"{path}: is a folder; --out takes a file")
    if path.exists() and not overwrite:
        raise ReactvlError(f"{path}: exists; pass --overwrite or choose another --out")
    return kinds[path.suffix.lower()](path)
