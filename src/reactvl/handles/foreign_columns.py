"""The columns of a part's metadata, under one name whoever wrote them.

`clip inference` writes `image_path` (a webdataset key), `caption` and the fields of img2dataset's json (`url`, `key`,
`sha256` as hex text, ...); LAION's own tables say `URL`, `TEXT`, `WIDTH`, `SAMPLE_ID`. Columns of other names pass as
they are.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from reactvl.manifest import ReactvlError

if TYPE_CHECKING:
    import pyarrow as pa

SOURCES = {  # our column: what others call it, the most telling name first
    "key": ("key", "image_path", "SAMPLE_ID", "sample_id", "uid", "id"),
    "caption": ("caption", "TEXT", "text", "CAPTION", "Text"),
    "url": ("url", "URL"),
    "sha256": ("sha256", "SHA256"),
    "width": ("width", "WIDTH"),
    "height": ("height", "HEIGHT"),
}


def source_of(column: str, names: list[str]) -> str | None:
    """The one of a file's column names that holds our `column`; None when none does."""
    return next((name for name in SOURCES.get(column, (column,)) if name in names), None)


def further(names: list[str]) -> list[str]:
    """A file's columns that stand for none of ours, in its order."""
    ours = canonical_types()
    taken = {source_of(column, names) for column in ours}
    return [name for name in names if name not in taken and name not in ours and not name.startswith("__")]


def canonical_types() -> "dict[str, pa.DataType]":
    """Our columns with their types: those of an embeddings folder's metadata."""
    from reactvl.pool.embeddings_format import METADATA_SCHEMA

    return {field.name: field.type for field in METADATA_SCHEMA}


def read_columns(path: Path, columns: list[str] | None = None, group: int | None = None) -> "pa.Table":
    """Our columns of a metadata file (all, with the further ones, when None), or of one of its row groups.

    A column that the file lacks is null in every row. Raises ReactvlError for a file that is no whole parquet.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            names = file.schema_arrow.names
            wanted = [*canonical_types(), *further(names)] if columns is None else list(columns)
            needed = sorted({source for column in wanted if (source := source_of(column, names))})
            rows = file.metadata.num_rows if group is None else file.metadata.row_group(group).num_rows
            table = file.read(needed) if group is None else file.read_row_group(group, needed)
    except (pa.ArrowInvalid, OSError) as fault:
        raise ReactvlError(f"{path}: cannot be read as parquet ({str(fault).splitlines()[0]})") from None
    return canonical(table, wanted, rows)


def canonical(table: "pa.Table", columns: list[str], rows: int | None = None) -> "pa.Table":
    """A table of these columns, ours in their type, made of a table in anyone's naming."""
    import pyarrow as pa

    rows = table.num_rows if rows is None else rows
    types = canonical_types()
    made = {}
    for column in columns:
        source = source_of(column, table.column_names)
        if source is None:
            made[column] = pa.nulls(rows, types.get(column, pa.null()))
        elif column in types:
            made[column] = converted(table[source], types[column])
        else:
            made[column] = table[source]
    return pa.table(made) if made else table.select([])


def converted(values: "pa.ChunkedArray", wanted: "pa.DataType") -> "pa.ChunkedArray":
    """Values in the wanted type; what cannot be said in it is null (pandas writes a missing width as NaN, a hash as hex)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if values.type == wanted:
        return values
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_fixed_size_binary(wanted):
        return pa.chunked_array([[as_bytes(value, wanted.byte_width) for value in values.to_pylist()]], wanted)
    if pa.types.is_integer(wanted) and pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_finite(values), pc.trunc(values), pa.scalar(None, values.type))
    try:
        return values.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return pa.chunked_array([[one(value, wanted) for value in values.to_pylist()]], wanted)


def one(value: object, wanted: "pa.DataType") -> object:
    """A single value in the wanted type, or None."""
    import pyarrow as pa

    try:
        if pa.types.is_string(wanted) and isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        return pa.scalar(value).cast(wanted).as_py()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        return None


def as_bytes(value: object, width: int) -> bytes | None:
    """A hash as bytes, from bytes or hex text; None when it is neither of that width."""
    if isinstance(value, str):
        try:
            value = bytes.fromhex(value)
        except ValueError:
            return None
    return value if isinstance(value, bytes) and len(value) == width else None
