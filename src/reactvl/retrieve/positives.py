"""Pairs that were picked by hand (`--positives FILE`): they are in their class, first by rank.

    red panda<TAB>00017.tar/000170042
    red panda<TAB>9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08

A line names a class and a pair of the pool, as shard/key or by the SHA-256 of its image. A picked pair needs no query that
finds it, no least score, no condition, and may fit another class better; only what is excluded stays out, and one picture
counts once. Those that the pool does not hold are counted and listed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reactvl.handles.embeddings import Embeddings
from reactvl.handles.foreign_columns import read_columns
from reactvl.manifest import ReactvlError, sha256_json
from reactvl.progress import progress
from reactvl.retrieve.exclusion import files, lines_of, pair_of
from reactvl.retrieve.queries import same_asked
from reactvl.tasks.classes import ClassEntry


@dataclass(frozen=True)
class Positive:
    """One line: the number of the class name (`Queries.name_of_class`), and shard/key or the 32 bytes of a SHA-256."""

    name: int
    pair: str | bytes

    def __str__(self) -> str:
        return self.pair.hex() if isinstance(self.pair, bytes) else self.pair


@dataclass(frozen=True)
class Picks:
    """Rows of the pool that positives name, arrays of one length, by name and row, each once. name, row: int64; turn:
    int64, the place of its line: those of a class are ranked by it. `lacking`: the positives that the pool does not
    hold."""

    name: np.ndarray
    row: np.ndarray
    turn: np.ndarray
    lacking: tuple[Positive, ...]


def read_positives(paths: Sequence[Path | str] | Path | str | None, entries: Sequence[ClassEntry]) -> list[Positive]:
    """Read text files, which are joined: `class TAB shard/key` or `class TAB SHA-256`, each once, in their order.

    A class goes by its name, or by any other of its names that is not another class's. Raises ReactvlError, with file and
    line, for a class that is not among the entries or could be two that ask for different things, and for a line that is
    no such pair; and for a missing file.
    """
    known = names_of(entries)
    found: dict[Positive, None] = {}
    for path in files(paths):
        for place, line in lines_of(path, "the list of positives"):
            name, tab, pair = line.partition("\t")
            if not tab:
                raise ReactvlError(f"{place}: '{line.strip()}' has no tab; write class TAB shard/key (or a SHA-256)")
            numbers = known.get(name.strip(), ())
            if not numbers:
                raise ReactvlError(
                    f"{place}: '{name.strip()}' is none of the {len(entries):,} classes; correct or remove the line"
                )
            if len(numbers) > 1:
                raise ReactvlError(
                    f"{place}: '{name.strip()}' is the name of {len(numbers)} different classes; name it by a synonym that "
                    "only one of them has"
                )
            found[Positive(numbers[0], pair_of(pair.strip(), place))] = None
    return list(found)


def names_of(entries: Sequence[ClassEntry]) -> dict[str, tuple[int, ...]]:
    """The numbers that a class's name can mean: those of the classes shown under it, else of those that have it among
    their names."""
    shown: dict[str, set[int]] = {}
    other: dict[str, set[int]] = {}
    for entry, number in zip(entries, same_asked(entries).tolist(), strict=True):
        shown.setdefault(entry.name.strip(), set()).add(number)
        for synonym in entry.synonyms:
            other.setdefault(synonym.strip(), set()).add(number)
    return {name: tuple(sorted(numbers)) for name, numbers in (other | shown).items()}


def digest(positives: Sequence[Positive]) -> str:
    """A hash of what was picked, in its order."""
    return sha256_json([[one.name, str(one)] for one in positives])


def located(positives: Sequence[Positive], embeddings: Embeddings) -> Picks:
    """Where the pool holds them. Reads shard, key and SHA-256 a row group at a time, and of those that are named by shard
    only row groups that can hold it."""
    names = sorted({one.pair for one in positives if isinstance(one.pair, str)})
    sums = sorted({one.pair for one in positives if isinstance(one.pair, bytes)})
    rows: dict[str | bytes, list[int]] = {}
    if positives:
        with progress("looking for picked pairs", len(embeddings), "rows") as bar:
            for first, group_rows, table in groups(embeddings, names, sums):
                for pair, row in matching(table, names, sums):
                    rows.setdefault(pair, []).append(first + row)
                bar.advance(group_rows)
    picked: dict[tuple[int, int], int] = {}
    for turn, one in enumerate(positives):
        for row in rows.get(one.pair, ()):
            picked.setdefault((one.name, row), turn)
    keys = sorted(picked)
    name, row = np.array(keys, dtype=np.int64).reshape(-1, 2).T
    turn = np.array([picked[key] for key in keys], dtype=np.int64)
    return Picks(name, row, turn, tuple(one for one in positives if one.pair not in rows))


def groups(embeddings: Embeddings, names: list[str], sums: list[bytes]):
    """(first row, number of rows, table or None) of every row group; None where none of the pairs can be."""
    shards = shards_of(names)
    columns = [*(["shard", "key"] if names else []), *(["sha256"] if sums else [])]
    first = 0
    for part in embeddings.parts:
        footer = pq.read_metadata(part.metadata_path)
        for group in range(footer.num_row_groups):
            known = footer.row_group(group)
            wanted = sums or spans(known, shards)
            yield first, known.num_rows, read_columns(part.metadata_path, columns, group) if wanted else None
            first += known.num_rows


def shards_of(names: list[str]) -> list[str]:
    """Every shard that these names can begin with: a shard's name and a key may both hold slashes."""
    return sorted({name[:at] for name in names for at, letter in enumerate(name) if letter == "/"})


def spans(group: pq.RowGroupMetaData, shards: list[str]) -> bool:
    """Whether a row group can hold rows of one of these shards, by the least and the largest that it states."""
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema == "shard":
            stated = column.statistics
            if stated is None or not stated.has_min_max or not isinstance(stated.min, str):
                return True
            return any(stated.min <= shard <= stated.max for shard in shards)
    return True


def matching(table: pa.Table | None, names: list[str], sums: list[bytes]):
    """(pair, row in the table) of rows that are among the pairs."""
    if table is None:
        return
    if names:
        near = pc.is_in(table["shard"], value_set=pa.array(shards_of(names), pa.string())).combine_chunks()
        some = np.flatnonzero(near.to_numpy(zero_copy_only=False))
        held = table.select(["shard", "key"]).take(pa.array(some))
        called = pc.binary_join_element_wise(held["shard"], held["key"], "/")
        yield from _among(called, names, pa.string(), some)
    if sums:
        yield from _among(table["sha256"], sums, pa.binary(32), np.arange(table.num_rows))


def _among(values: pa.ChunkedArray, wanted: list, kind: pa.DataType, rows: np.ndarray):
    at = pc.index_in(values, value_set=pa.array(wanted, kind)).combine_chunks()
    at = at.fill_null(-1).to_numpy(zero_copy_only=False)
    for place in np.flatnonzero(at >= 0).tolist():
        yield wanted[at[place]], int(rows[place])
