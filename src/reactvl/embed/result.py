"""The result of one shard as a file in the stage's work folder, whole or not there."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from reactvl.manifest import replacing
from reactvl.pool.fields import Fields, fitted
from reactvl.pool.tars import Fingerprint, Skipped


class Head(NamedTuple):
    """What a result file says without its arrays.

    `fields`: the columns of the samples' own fields. `made_by`: what the bytes depend on besides the shard.
    """

    rows: int
    fingerprint: Fingerprint
    skipped: list[Skipped]
    paths: dict[str, int]  # images by decoding path
    damaged_json: int
    fields: Fields
    made_by: dict[str, Any]
    fetched: dict[str, int]  # downloads by how they ended, where a side file says


class Result(NamedTuple):
    """`images`, `texts`: float16 (rows, dim), L2-normalised. `metadata`: their rows, column `shard` not filled in yet."""

    head: Head
    images: np.ndarray
    texts: np.ndarray
    metadata: pa.Table


def write(path: Path, result: Result) -> None:
    """Write a result file, whole or not at all."""
    table = result.metadata
    for name, vectors in (
        ("image", result.images),
        ("text", result.texts),
    ):  # told by their place: a field may be so named
        dim = vectors.shape[1]
        flat = pa.array(np.ascontiguousarray(vectors, np.float16).reshape(-1), pa.float16())
        table = table.append_column(name, pa.FixedSizeListArray.from_arrays(flat, dim))
    table = table.replace_schema_metadata({"reactvl": json.dumps(result.head._asdict())})
    with replacing(path) as part, pa.OSFile(str(part), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def read_head(path: Path) -> Head | None:
    """What a result file says of itself; None when it is missing or damaged."""
    try:
        with pa.memory_map(str(path)) as file:
            about = json.loads(pa.ipc.open_file(file).schema.metadata[b"reactvl"])
        return Head(**about)._replace(
            fingerprint=Fingerprint(*about["fingerprint"]),
            skipped=[Skipped(*entry) for entry in about["skipped"]],
            fields={name: (kind, count) for name, (kind, count) in about["fields"].items()},
        )
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError):
        return None


def read_rows(path: Path, shard: str, schema: pa.Schema) -> tuple[np.ndarray, np.ndarray, pa.Table]:
    """(images, texts, metadata of the whole pool's `schema`, with its `shard` column filled in) of a result file."""
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all().combine_chunks()
        own = table.num_columns - 2
        images, texts = (vectors(table.column(place)) for place in (own, own + 1))
        rows = fitted(table.select(range(own)), schema)
        shards = pa.array([shard], pa.string()).take(pa.array(np.zeros(table.num_rows, np.int32)))
        return images, texts, rows.set_column(schema.get_field_index("shard"), schema.field("shard"), shards)


def vectors(column: pa.ChunkedArray) -> np.ndarray:
    """float16 (rows, dim) of a column of fixed-size lists."""
    dim = column.type.list_size
    chunks = [np.asarray(chunk.flatten()).reshape(-1, dim) for chunk in column.chunks]
    return chunks[0] if len(chunks) == 1 else np.concatenate([np.zeros((0, dim), np.float16), *chunks])
