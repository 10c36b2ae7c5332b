"""The catalogue of one shard as a file in the stage's work folder, whole or not there."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import PIL
import pyarrow as pa
import pyarrow.parquet as pq

from reactvl.manifest import ReactvlError, replacing
from reactvl.pool.embeddings_format import METADATA_SCHEMA
from reactvl.pool.fields import Fields, field_columns
from reactvl.pool.images import BadImage, decode, perceptual_hash
from reactvl.pool.reader import forget, read_many
from reactvl.pool.records import side_stamp
from reactvl.pool.shards import still_there
from reactvl.pool.tars import Fingerprint, Sample, Skipped, catalogue_or_fault

MEASURED = ("width", "height")  # of the decoded picture where there is one, else what the json says


class Task(NamedTuple):
    """A shard to catalogue, and the file that its rows go to."""

    shard: Path
    fingerprint: Fingerprint
    result: Path


class Head(NamedTuple):
    """What a result file says without its rows: `fields` are those that its samples have beyond METADATA_SCHEMA."""

    rows: int
    fingerprint: Fingerprint
    skipped: list[Skipped]
    damaged_json: int
    fields: Fields
    made_by: dict[str, Any]
    fetched: dict[str, int]  # downloads by how they ended, where a side file says


Row = tuple[dict[str, Any], dict[str, Any]]  # METADATA_SCHEMA's columns, further fields


def catalogue_shard(task: Task, captions: str, hashes: bool) -> Head:
    """Catalogue one shard and write its result file; an unreadable shard gives one without rows that says so."""
    forget(task.shard)
    found = catalogue_or_fault(task.shard, captions)
    skipped, usable = list(found.skipped), []
    for sample in found.samples:
        if sample.status in (None, "success"):
            usable.append(sample)
        else:
            skipped.append(Skipped(sample.key, "download failed", f"img2dataset's status is {sample.status}"))
    if hashes:
        rows, faults = looked_at(task.shard, usable)
        skipped += faults
    else:
        rows = [row_of(sample, {name: whole_number(sample.fields.get(name)) for name in MEASURED}) for sample in usable]
    if rows and not still_there(task.shard, task.fingerprint):
        raise ReactvlError(
            f"shard {task.shard}: has changed or gone while it was read; run again when the pool is complete"
        )
    table, fields = table_of(rows)
    made = made_by(task.shard, hashes)
    head = Head(len(rows), task.fingerprint, skipped, found.damaged_json, fields, made, dict(found.fetched))
    with replacing(task.result) as part:
        pq.write_table(table.replace_schema_metadata({"reactvl": json.dumps(head._asdict())}), part, compression="zstd")
    return head


def row_of(sample: Sample, known: dict[str, Any]) -> Row:
    place = {"key": sample.key, "offset": sample.offset, "size": sample.size, "ext": sample.ext}
    return {**place, "caption": sample.caption, "url": sample.url, **known}, sample.fields


def looked_at(shard: Path, samples: list[Sample]) -> tuple[list[Row], list[Skipped]]:
    """The rows of the samples whose images can be decoded, with their hashes, and what is wrong with the others."""
    rows: dict[int, Row] = {}
    faults: dict[int, Skipped] = {}
    for number, data in read_many((shard, sample.offset, sample.size) for sample in samples):
        sample = samples[number]
        try:
            if isinstance(data, ReactvlError):
                raise BadImage("unreadable image", str(data))
            array = decode(data)
        except BadImage as fault:
            faults[number] = Skipped(sample.key, fault.reason, fault.detail)
            continue
        known = {"sha256": hashlib.sha256(data).digest(), "phash": int(perceptual_hash(array))}
        rows[number] = row_of(sample, known | {"width": array.shape[1], "height": array.shape[0]})
    return [rows[number] for number in sorted(rows)], [faults[number] for number in sorted(faults)]


def table_of(rows: list[Row]) -> tuple[pa.Table, Fields]:
    """The rows with METADATA_SCHEMA's columns and one a field, and the fields; `shard` is null, since its name depends on
    the whole pool."""
    table = pa.Table.from_pylist([row for row, _ in rows], schema=METADATA_SCHEMA)
    own, fields = field_columns([extra for _, extra in rows])
    for name in own.column_names if own is not None else ():
        table = table.append_column(name, own[name])
    return table, fields


def whole_number(value: Any) -> int | None:
    """A number of pixels as a sample's json gives it; None for what cannot be one."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 2**31 and value == int(value)
    return int(value) if fits else None


def made_by(shard: Path, hashes: bool) -> dict[str, Any]:
    """What the rows depend on besides the shard and what was asked for: its side file, and the decoder."""
    return {"side_file": side_stamp(shard), "pillow": PIL.__version__ if hashes else None}


def read_head(path: Path) -> Head | None:
    """What a result file says of itself; None when it is missing or damaged."""
    try:
        head = Head(**json.loads(pq.read_schema(path).metadata[b"reactvl"]))
        prints, skipped = Fingerprint(*head.fingerprint), [Skipped(*entry) for entry in head.skipped]
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None
    return head._replace(fingerprint=prints, skipped=skipped)
