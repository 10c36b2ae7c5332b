"""The parquet files of a retrieved folder: what each column holds, and how they are written."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reactvl.manifest import replacing
from reactvl.retrieve.selection import FATES

PAIRS = pa.schema(
    [
        ("class", pa.string()),
        ("class_id", pa.int32()),
        ("prompt", pa.string()),  # of the query that found it best
        ("mode", pa.string()),  # of that query: "image" or "text"
        ("score", pa.float32()),  # what it is ranked by: z-scores joined over the modes (selection.py)
        ("similarity", pa.float32()),  # cosine of that query
        ("rank", pa.int32()),  # 0 is the class's best
        ("part", pa.int32()),
        ("row", pa.int64()),
        ("shard", pa.string()),
        ("key", pa.string()),
        ("ext", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("sha256", pa.binary(32)),
        ("URL", pa.string()),
        ("TEXT", pa.string()),
    ]
)
QUERIES = pa.schema(
    [
        ("query", pa.int32()),
        ("class_id", pa.int32()),
        ("class", pa.string()),
        ("template", pa.string()),
        ("prompt", pa.string()),
    ]
)
HITS = pa.schema(
    [
        ("query", pa.int32()),
        ("part", pa.int32()),
        ("row", pa.int64()),
        ("mode", pa.int8()),  # a place in MODES
        ("rank", pa.int32()),
        ("score", pa.float32()),  # cosine
        ("fate", pa.int8()),  # a place in FATES
    ],
    metadata={"modes": "image,text", "fates": ",".join(FATES)},
)
MODES = ("image", "text")
FROM_METADATA = ("shard", "key", "ext", "offset", "size", "sha256", "url", "caption")
ROW_GROUP = 1 << 20


def write(path: Path, pieces, schema: pa.Schema) -> int:
    """Write tables of one schema to a parquet file, whole or not at all; returns the number of rows."""
    rows = 0
    with replacing(path) as part, pq.ParquetWriter(part, schema, compression="zstd") as writer:
        for piece in pieces:
            writer.write_table(piece.cast(schema), row_group_size=ROW_GROUP)
            rows += piece.num_rows
    return rows


def metadata_of(parts, part_number: np.ndarray, row: np.ndarray, columns: tuple[str, ...] = FROM_METADATA) -> pa.Table:
    """Metadata of (part, row) pairs, in their order; one part is held at a time. Columns a part lacks are null."""
    pieces, places = [], []
    for part in parts:
        at = np.flatnonzero(part_number == part.number)
        if len(at):
            table = part.metadata(list(columns))
            pieces.append(table.take(pa.array(row[at])))
            places.append(at)
    if not pieces:
        return pa.table({name: pa.nulls(0) for name in columns})
    joined = pa.concat_tables(pieces, promote_options="default")
    order = np.empty(len(row), dtype=np.int64)
    order[np.concatenate(places)] = np.arange(len(row))
    return joined.take(pa.array(order)).combine_chunks()
