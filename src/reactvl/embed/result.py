"""The result of one shard as a file in the stage's work folder, whole or not there."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from reactvl.manifest import replacing
from reactvl.pool.embeddings_format import METADATA_SCHEMA
from reactvl.pool.tars import Fingerprint, Skipped


class Result(NamedTuple):
    """`images`, `texts`: float16 (rows, dim), L2-normalised. `metadata`: their rows, column `shard` not filled in yet.

    `made_by` says what the bytes depend on besides the shard and the stage's request: precision and threads.
    """

    fingerprint: Fingerprint
    images: np.ndarray
    texts: np.ndarray
    metadata: pa.Table
    skipped: list[Skipped]
    paths: dict[str, int]  # images by decoding path
    damaged_json: int
    made_by: dict[str, Any]


class Head(NamedTuple):
    """What a result file says without its arrays."""

    rows: int
    fingerprint: Fingerprint
    skipped: list[Skipped]
    paths: dict[str, int]
    damaged_json: int
    made_by: dict[str, Any]


def write(path: Path, result: Result) -> None:
    """Write a result file, whole or not at all."""
    about = {
        "fingerprint": result.fingerprint,
        "skipped": result.skipped,
        "paths": dict(sorted(result.paths.items())),
        "damaged_json": result.damaged_json,
        "made_by": result.made_by,
    }
    table = result.metadata
    for name, vectors in (("image", result.images), ("text", result.texts)):
        dim = vectors.shape[1]
        flat = pa.array(np.ascontiguousarray(vectors, np.float16).reshape(-1), pa.float16())
        table = table.append_column(name, pa.FixedSizeListArray.from_arrays(flat, dim))
    table = table.replace_schema_metadata({"reactvl": json.dumps(about)})
    with replacing(path) as part, pa.OSFile(str(part), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def read_head(path: Path) -> Head | None:
    """What a result file says of itself; None when it is missing or damaged."""
    try:
        with pa.memory_map(str(path)) as file:
            reader = pa.ipc.open_file(file)
            about = json.loads(reader.schema.metadata[b"reactvl"])
            rows = sum(reader.get_batch(number).num_rows for number in range(reader.num_record_batches))
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError):
        return None
    return Head(
        rows,
        Fingerprint(*about["fingerprint"]),
        [Skipped(*entry) for entry in about["skipped"]],
        about["paths"],
        about["damaged_json"],
        about["made_by"],
    )


def read_rows(path: Path, shard: str) -> tuple[np.ndarray, np.ndarray, pa.Table]:
    """(images, texts, metadata with its `shard` column filled in) of a result file."""
    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_file(file).read_all().combine_chunks()
        images, texts = (vectors(table[name]) for name in ("image", "text"))
        shards = pa.array([shard], pa.string()).take(pa.array(np.zeros(table.num_rows, np.int32)))
        columns = [shards if name == "shard" else table[name] for name in METADATA_SCHEMA.names]
        return images, texts, pa.Table.from_arrays(columns, schema=METADATA_SCHEMA)


def vectors(column: pa.ChunkedArray) -> np.ndarray:
    """float16 (rows, dim) of a column of fixed-size lists."""
    dim = column.type.list_size
    chunks = [np.asarray(chunk.flatten()).reshape(-1, dim) for chunk in column.chunks]
    return chunks[0] if len(chunks) == 1 else np.concatenate([np.zeros((0, dim), np.float16), *chunks])
