"""The samples' own fields as typed columns (`columns.py`) behind those that every pool has, with one schema for all parts.

Names that a column of ours has, in whatever case, as DuckDB reads them, stay out. So do all but the `MAX_COLUMNS` fields
that most samples have: a pool whose json has names made of data must not end in a million columns.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from reactvl.pool.columns import arrow_type, held_as, joined, kinds_of, table_of
from reactvl.pool.embeddings_format import METADATA_SCHEMA
from reactvl.pool.records import Scalar

MAX_COLUMNS = 256
TAKEN = {name.lower() for name in METADATA_SCHEMA.names}

Fields = dict[str, tuple[str, int]]  # by name: the type of the column, and how many samples have the field


def field_columns(samples: Sequence[Mapping[str, Scalar]]) -> tuple[pa.Table | None, Fields]:
    """The fields of some samples as a table of a row a sample, and what it holds; None where there are no fields.

    Null where a sample lacks a field.
    """
    own = [{name: value for name, value in fields.items() if name.lower() not in TAKEN} for fields in samples]
    counts = Counter(name for fields in own for name in fields)
    kinds = kinds_of(own)
    found = {name: (kinds[name], counts[name]) for name in commonest(counts)}
    return (table_of(own, {name: kind for name, (kind, _) in found.items()}) if found else None), found


def commonest(counts: Mapping[str, int]) -> list[str]:
    """The names of at most MAX_COLUMNS fields, those that most samples have, in the order of the alphabet."""
    return sorted(sorted(counts, key=lambda name: (-counts[name], name))[:MAX_COLUMNS])


def whole_schema(pieces: Iterable[Fields]) -> tuple[pa.Schema, int]:
    """The schema of a pool's metadata from the fields of its pieces, and how many fields are too many for it."""
    kinds: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for fields in pieces:
        for name, (kind, count) in fields.items():
            kinds[name] = joined(kinds.get(name), kind)
            counts[name] += count
    names = commonest(counts)
    extra = [pa.field(name, arrow_type(kinds[name])) for name in names]
    return pa.schema([*METADATA_SCHEMA, *extra]), len(counts) - len(names)


def fitted(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A piece's table with the columns and types of the whole pool's; columns that it lacks are null."""
    have = set(table.schema.names)
    columns = [
        converted(table[field.name], field.type) if field.name in have else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def converted(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | pa.Array:
    if column.type == kind:
        return column
    return pa.array([held_as(value, str(kind)) for value in column.to_pylist()], kind)
