"""The parquet files of a retrieved folder: what each column holds, and how they are written."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reactvl.handles.foreign_columns import read_columns
from reactvl.manifest import replacing
from reactvl.retrieve.queries import MODES
from reactvl.retrieve.selection import FATES

PAIRS = pa.schema(
    [
        ("class", pa.string()),
        ("class_id", pa.int32()),
        # of the query of its class that found it best: a prompt, an example's file name, a name (match); null for none
        ("prompt", pa.string()),
        ("mode", pa.string()),  # of that query: one of MODES; "positive" where it was picked by hand and none found it
        ("score", pa.float32()),  # what it is ranked by: see fusion.py
        ("similarity", pa.float32()),  # cosine of that query; null for match and for "positive"
        ("rank", pa.int32()),  # 0 is the class's best
        ("part", pa.int32()),
        ("row", pa.int64()),
        ("shard", pa.string()),  # null, as key to size, in a pool of URLs
        ("key", pa.string()),
        ("ext", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("sha256", pa.binary(32)),
        ("URL", pa.string()),  # URL and TEXT: what img2dataset takes
        ("TEXT", pa.string()),
    ]
)
QUERIES = pa.schema(
    [
        ("query", pa.int32()),
        ("class_id", pa.int32()),
        ("class", pa.string()),
        ("name", pa.string()),  # the class's name or synonym that is asked for; empty for an example picture
        ("template", pa.string()),  # empty where there is none
        ("prompt", pa.string()),
        ("kind", pa.string()),  # prompts, examples or words
    ]
)
HITS = pa.schema(
    [
        ("query", pa.int32()),
        ("part", pa.int32()),
        ("row", pa.int64()),
        ("mode", pa.int8()),  # a place in MODES
        ("rank", pa.int32()),
        ("score", pa.float32()),  # cosine; for match the share of the caption that the name makes up
        ("fate", pa.int8()),  # a place in FATES
    ],
    metadata={"modes": ",".join(MODES), "fates": ",".join(FATES)},
)
FROM_METADATA = ("shard", "key", "ext", "offset", "size", "sha256", "url", "caption")
ROW_GROUP = 1 << 20


def write(path: Path, pieces: Iterable[pa.Table], schema: pa.Schema) -> int:
    """Write tables of one schema to a parquet file, whole or not at all; returns the number of rows."""
    rows = 0
    with replacing(path) as part, pq.ParquetWriter(part, schema, compression="zstd") as writer:
        for piece in pieces:
            writer.write_table(piece.cast(schema), row_group_size=ROW_GROUP)
            rows += piece.num_rows
    return rows


def metadata_of(parts, part_number: np.ndarray, row: np.ndarray, columns: tuple[str, ...] = FROM_METADATA) -> pa.Table:
    """Metadata of (part, row) pairs, in their order; one row group is held at a time. Columns a part lacks are null."""
    order = np.lexsort((row, part_number))
    numbers = part_number[order]
    pieces = []
    for part in parts:
        begin, end = np.searchsorted(numbers, [part.number, part.number + 1])
        pieces += of_rows(part, row[order[begin:end]], columns)
    if not pieces:
        return pa.table({name: pa.nulls(0) for name in columns})
    place = np.empty(len(row), dtype=np.int64)
    place[order] = np.arange(len(row))
    return pa.concat_tables(pieces, promote_options="default").take(pa.array(place)).combine_chunks()


def of_rows(part, rows: np.ndarray, columns: tuple[str, ...]) -> Iterator[pa.Table]:
    """Metadata of ascending rows of one part, a piece for each row group that holds any."""
    if not len(rows):
        return
    edges = group_edges(part)
    bounds = np.searchsorted(rows, edges)
    for group in np.flatnonzero(np.diff(bounds)).tolist():
        local = rows[bounds[group] : bounds[group + 1]] - edges[group]
        yield read_columns(part.metadata_path, list(columns), group).take(pa.array(local))


def captions_of(parts) -> Iterator[tuple[int, pa.Array]]:
    """(first row, counted over all parts, captions) of every row group of the pool, in order."""
    first = 0
    for part in parts:
        for group, start in enumerate(group_edges(part)[:-1].tolist()):
            yield first + start, read_columns(part.metadata_path, ["caption"], group)["caption"].combine_chunks()
        first += part.rows


def group_edges(part) -> np.ndarray:
    """int64 (row groups + 1,): the first row of every row group of a part's metadata, and the number of its rows."""
    known = pq.read_metadata(part.metadata_path)
    return np.cumsum([0, *(known.row_group(group).num_rows for group in range(known.num_row_groups))], dtype=np.int64)
