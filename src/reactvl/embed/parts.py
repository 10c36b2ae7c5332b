"""From one result a shard to parts of about a million rows, in the order of the shards, in the memory of one shard."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from reactvl.embed.result import Head, read_rows
from reactvl.embed.shard import Task
from reactvl.pool import embeddings_format as layout
from reactvl.pool.fields import whole_schema
from reactvl.pool.listing import write_skipped
from reactvl.pool.shards import shard_row


class Piece(NamedTuple):
    """A shard on its way into a part; `name` is how people and tables call it."""

    name: str
    task: Task
    head: Head


def write(out: Path, pieces: list[Piece], dim: int, part_rows: int) -> int:
    """Write the parts, `shards.parquet` and `skipped.parquet` of an embeddings folder over whatever a killed run
    left; returns how many fields of the samples were too many to get a column."""
    for name in (layout.IMAGES, layout.TEXTS, layout.METADATA):
        shutil.rmtree(out / name, ignore_errors=True)
    schema, too_many = whole_schema(piece.head.fields for piece in pieces)
    shards = []
    rows = [piece.head.rows for piece in pieces]
    for number, members in enumerate(layout.parts_of(rows, part_rows)):
        with layout.PartWriter(out, number, sum(rows[member] for member in members), dim, schema) as part:
            for name, task, head in (pieces[member] for member in members):
                place = {"part": number, "first_row": part.written, "rows": head.rows}
                shards.append(shard_row(name, task.shard, task.fingerprint, out, **place))
                if head.rows:
                    part.add(*read_rows(task.result, name, schema))
    layout.write_table(out / layout.SHARDS, pa.Table.from_pylist(shards, schema=layout.SHARDS_SCHEMA))
    write_skipped(out, ((piece.name, *entry) for piece in pieces for entry in piece.head.skipped))
    return too_many
