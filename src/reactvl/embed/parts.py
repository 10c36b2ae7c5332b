"""From one result a shard to parts of about a million rows, in the order of the shards, in the memory of one shard."""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from reactvl.embed.result import Head, read_rows
from reactvl.embed.shard import Task
from reactvl.pool import embeddings_format as layout


class Piece(NamedTuple):
    """A shard on its way into a part; `name` is how people and tables call it."""

    name: str
    task: Task
    head: Head


def write(out: Path, pieces: list[Piece], dim: int, part_rows: int) -> None:
    """Write the parts, `shards.parquet` and `skipped.parquet` of an embeddings folder over whatever a killed run
    left."""
    for name in (layout.IMAGES, layout.TEXTS, layout.METADATA):
        shutil.rmtree(out / name, ignore_errors=True)
    shards = []
    for number, members in enumerate(planned(pieces, part_rows)):
        with layout.PartWriter(out, number, sum(piece.head.rows for piece in members), dim) as part:
            for piece in members:
                shards.append(shard_row(piece, number, part.written, out))
                if piece.head.rows:
                    part.add(*read_rows(piece.task.result, piece.name))
    skipped = [
        {"shard": piece.name, "key": entry.key, "reason": entry.reason, "detail": entry.detail}
        for piece in pieces
        for entry in piece.head.skipped
    ]
    layout.write_table(out / layout.SHARDS, pa.Table.from_pylist(shards, schema=layout.SHARDS_SCHEMA))
    layout.write_table(out / layout.SKIPPED, pa.Table.from_pylist(skipped, schema=layout.SKIPPED_SCHEMA))


def planned(pieces: list[Piece], part_rows: int) -> list[list[Piece]]:
    """Runs of whole shards of at most `part_rows` rows; a shard above that is a part of its own."""
    parts, rows = [[]], 0
    for piece in pieces:
        if parts[-1] and rows and rows + piece.head.rows > part_rows:
            parts.append([])
            rows = 0
        parts[-1].append(piece)
        rows += piece.head.rows
    return parts


def shard_row(piece: Piece, part: int, first_row: int, out: Path) -> dict:
    """Its path is relative to the folder where both lie under one parent, so that they can be moved together."""
    shard, parent = piece.task.shard.resolve(), out.resolve().parent
    path = os.path.relpath(shard, out.resolve()) if shard.is_relative_to(parent) else str(shard)
    given = piece.task.fingerprint
    return {
        "shard": piece.name,
        "path": path,
        "size": given.size,
        "mtime_ns": given.mtime_ns,
        "ends_sha256": given.ends_sha256,
        "part": part,
        "first_row": first_row,
        "rows": piece.head.rows,
    }
