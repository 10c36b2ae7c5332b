"""Rows of metadata over many files, counted through: parquet, Arrow files and clip-retrieval's hdf5.

The order of the files is that of their paths as text, which is how clip-retrieval and autofaiss read them and so what
the ids of their indexes count: `metadata_10.parquet` comes before `metadata_2.parquet` there.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reactvl.handles.foreign_columns import canonical, canonical_types, converted, further, source_of
from reactvl.manifest import ReactvlError


class MetadataRows:
    """Metadata files as one table of our columns and the further ones, read in pieces.

    `schema` is that of every table it gives, whatever the single files have. Raises ReactvlError for a file that is
    damaged or of a format that cannot be read here.
    """

    def __init__(self, files: list[Path]):
        self.files = files
        opened = [opening(path) for path in files]
        self.counts = [count for count, _ in opened]
        self.schema = target_schema([schema for _, schema in opened])

    def __len__(self) -> int:
        return sum(self.counts)

    def blocks(self, first: int, count: int, size: int) -> Iterator[pa.Table]:
        """Rows `first` to `first + count` in tables of `size` rows (the last perhaps fewer)."""
        held: list[pa.Table] = []
        rows = 0
        for table in self._tables(first, count, size):
            held.append(table)
            rows += table.num_rows
            while rows >= size:
                whole = pa.concat_tables(held)
                yield whole.slice(0, size)
                held, rows = [whole.slice(size)], rows - size
        if rows:
            yield pa.concat_tables(held)

    def keys(self, first: int, count: int) -> pa.Array:
        """The keys of these rows."""
        tables = [table["key"] for table in self._tables(first, count, 65_536, only=["key"])]
        chunks = [chunk for column in tables for chunk in column.chunks]
        return pa.chunked_array(chunks, pa.string()).combine_chunks()

    def _tables(self, first: int, count: int, size: int, only: list[str] | None = None) -> Iterator[pa.Table]:
        """The same rows in tables as they come from the files."""
        schema = self.schema if only is None else pa.schema([self.schema.field(name) for name in only])
        for path, rows in zip(self.files, self.counts, strict=True):
            if first < rows and count > 0:
                taken = min(rows - first, count)
                for raw in raw_tables(path, first, taken, size, schema.names):
                    yield fitted(raw, schema)
                count -= taken
            first = max(0, first - rows)


def opening(path: Path) -> tuple[int, pa.Schema]:
    """Rows and columns of a metadata file."""
    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                return file.metadata.num_rows, file.schema_arrow
        if path.suffix in (".hdf5", ".h5"):
            with hdf5(path) as file:
                columns = file["dataset"]
                fields = [(name, pa.string() if values.dtype.kind in "OSU" else pa.from_numpy_dtype(values.dtype))
                          for name, values in columns.items()]  # fmt: skip
                return len(next(iter(columns.values()))), pa.schema(fields)
        with pa.memory_map(str(path)) as file:
            reader = pa.ipc.open_file(file)
            return sum(reader.get_batch(n).num_rows for n in range(reader.num_record_batches)), reader.schema
    except (pa.ArrowInvalid, OSError, KeyError, StopIteration) as fault:
        reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
        raise ReactvlError(f"{path}: cannot be read as metadata ({reason}); wanted parquet, Arrow or hdf5") from None


def raw_tables(path: Path, first: int, count: int, size: int, wanted: list[str]) -> Iterator[pa.Table]:
    """Rows of one file under its own column names, only the columns that ours are made of."""
    columns = [name for name in (source_of(column, opening(path)[1].names) for column in wanted) if name]
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
            ends = list(itertools.accumulate(sizes))
            groups = [g for g, end in enumerate(ends) if end > first and end - sizes[g] < first + count]
            skip = first - (ends[groups[0]] - sizes[groups[0]]) if groups else 0
            batches = file.iter_batches(min(size, 65_536), groups, columns)
            yield from cut((pa.Table.from_batches([batch]) for batch in batches), skip, count)
    elif path.suffix in (".hdf5", ".h5"):
        with hdf5(path) as file:
            for begin in range(first, first + count, size):
                end = min(begin + size, first + count)
                yield pa.table({name: from_hdf5(file["dataset"][name][begin:end]) for name in columns})
    else:
        with pa.memory_map(str(path)) as file:
            reader = pa.ipc.open_file(file)
            batches = (reader.get_batch(n) for n in range(reader.num_record_batches))
            yield from cut((pa.Table.from_batches([batch]).select(columns) for batch in batches), first, count)


def cut(tables: Iterator[pa.Table], skip: int, count: int) -> Iterator[pa.Table]:
    """`count` rows after the first `skip`."""
    for table in tables:
        if skip >= table.num_rows:
            skip -= table.num_rows
            continue
        if count <= 0:
            return
        taken = table.slice(skip, count)
        skip, count = 0, count - taken.num_rows
        yield taken


def hdf5(path: Path) -> Any:
    """An open hdf5 file; ReactvlError without h5py."""
    try:
        import h5py
    except ImportError:
        raise ReactvlError(
            f"{path}: reading it needs h5py (pip install h5py); or give clip-retrieval's parquet files with --metadata"
        ) from None
    return h5py.File(path, "r")


def from_hdf5(values: Any) -> pa.Array:
    """A column's values; h5py gives text as bytes."""
    if values.dtype.kind in "OSU":
        return pa.array(
            [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values.tolist()], pa.string()
        )
    return pa.array(values)


def target_schema(schemas: list[pa.Schema]) -> pa.Schema:
    """Our columns, then every further one of the files in the plain type that holds all of its values."""
    types: dict[str, pa.DataType] = {}
    for schema in schemas:
        for name in further(schema.names):
            plain = plain_type(schema.field(name).type)
            if plain is not None:
                types[name] = joined_type(types.get(name, plain), plain)
    return pa.schema([*canonical_types().items(), *types.items()])


def plain_type(given: pa.DataType) -> pa.DataType | None:
    """bool, int64, double or string for a column of scalars; None for lists, structs and raw bytes, which are left out."""
    if pa.types.is_dictionary(given):
        given = given.value_type
    if pa.types.is_boolean(given) or pa.types.is_null(given):
        return given
    if pa.types.is_integer(given):
        return pa.float64() if given == pa.uint64() else pa.int64()
    if pa.types.is_floating(given) or pa.types.is_decimal(given):
        return pa.float64()
    if pa.types.is_string(given) or pa.types.is_large_string(given) or pa.types.is_temporal(given):
        return pa.string()
    return None


def joined_type(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The plain type that holds values of both."""
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    numbers = (pa.int64(), pa.float64())
    return pa.float64() if one in numbers and other in numbers else pa.string()


def fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table in anyone's naming as one of this schema; a column that it lacks is null."""
    ours = canonical(table, schema.names, table.num_rows)
    columns = [
        converted(pa.chunked_array([column]) if isinstance(column, pa.Array) else column, field.type)
        for column, field in zip(ours.columns, schema, strict=True)
    ]
    return pa.table([pc.cast(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema)
