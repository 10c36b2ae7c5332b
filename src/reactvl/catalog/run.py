"""One run of the catalog stage: the shards that are still to do, and the folder made whole."""

import functools
import shutil
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from reactvl import scale
from reactvl.catalog.shard import Head, Task, catalogue_shard, made_by, read_head
from reactvl.handles.catalog import Catalog
from reactvl.manifest import ReactvlError, replacing, sha256_json, stage_folder
from reactvl.pool import embeddings_format as layout
from reactvl.pool.fields import fitted, whole_schema
from reactvl.pool.listing import by_reason, downloads, rate, reasons, write_skipped
from reactvl.pool.patterns import expand
from reactvl.pool.records import checked_captions
from reactvl.pool.shards import UNREADABLE, identify, pool_id, shard_names, shard_row, still_there
from reactvl.progress import progress, say


def run_stage(
    pool: str | list[str],
    out: Path,
    *,
    captions: str,
    hashes: bool,
    workers: int,
    part_rows: int,
    overwrite: bool,
) -> Catalog:
    """See `reactvl.catalog.catalog`."""
    if workers < 1 or part_rows < 1:
        raise ReactvlError(f"workers {workers}, part_rows {part_rows}: use 1 or more")
    checked_captions(captions)
    shards = identify(expand(pool))
    options = {"captions": captions, "hashes": hashes, "part_rows": part_rows}
    inputs = {"pool": pool_id(shards, out)}
    with stage_folder(
        out, "catalog", options=options, inputs=inputs, overwrite=overwrite, piecewise=("pool",)
    ) as stage:
        if stage.done:
            say(f"catalog: {out} is up to date")
            return Catalog(out)
        home = stage.work / "shards"
        tasks = [
            Task(path, mark, home / f"{sha256_json(str(path.resolve()))[:32]}.parquet") for path, mark in shards.items()
        ]
        heads = catalogued(tasks, captions, hashes, workers)
        counts = counted(heads)
        if not counts["pairs"]:
            raise ReactvlError(
                f"pool {pool}: no image in {len(tasks):,} shards ({reasons(counts) or 'they are empty'})"
            )
        names = shard_names(list(shards))
        write(out, [names[task.shard] for task in tasks], tasks, heads, part_rows)
        facts = {"damaged_json": sum(head.damaged_json for head in heads)}
        if ended := downloads(head.fetched for head in heads):
            facts["downloads"] = ended
        stage.finish(counts=counts, facts=facts)
    say(f"catalog: {counts['pairs']:,} samples of {counts['shards']:,} shards -> {out}")
    if counts["skipped"]:
        say(f"catalog: {counts['skipped']:,} skipped ({reasons(counts)}); listed in {out / layout.SKIPPED}")
    if ended:
        say(f"catalog: {rate(ended)}")
    return Catalog(out)


def catalogued(tasks: list[Task], captions: str, hashes: bool, workers: int) -> list[Head]:
    """The heads of all result files, after those that are missing or out of date were made."""
    heads = [done_before(task, hashes) for task in tasks]
    todo = [number for number, head in enumerate(heads) if head is None]
    work = functools.partial(catalogue_shard, captions=captions, hashes=hashes)
    with progress("cataloguing", sum(task.fingerprint.size for task in tasks) // MEGABYTE, "MB") as bar:
        size = sum(task.fingerprint.size for task, head in zip(tasks, heads, strict=True) if head)
        bar.advance(size // MEGABYTE, resumed=True)
        done = scale.run([tasks[number] for number in todo], work, min(workers, len(todo) or 1))
        for number, head in zip(todo, done, strict=True):
            heads[number] = head
            size += tasks[number].fingerprint.size
            bar.advance(size // MEGABYTE - bar.done)
    return heads


MEGABYTE = 1_000_000


def done_before(task: Task, hashes: bool) -> Head | None:
    """The head of a result file that is of the shard as it is now; None where the shard is to do."""
    head = read_head(task.result)
    if (
        head is None
        or UNREADABLE in (task.fingerprint, head.fingerprint)
        or not still_there(task.shard, task.fingerprint)
    ):
        return None
    same = (head.fingerprint.size, head.fingerprint.ends_sha256) == (
        task.fingerprint.size,
        task.fingerprint.ends_sha256,
    )
    return head if same and head.made_by == made_by(task.shard, hashes) else None


def counted(heads: list[Head]) -> dict[str, int]:
    """Samples, shards, and what was left out, in all and by reason."""
    skipped = Counter(entry.reason for head in heads for entry in head.skipped)
    return {
        "pairs": sum(head.rows for head in heads),
        "shards": len(heads),
        **by_reason(skipped),
    }


def write(out: Path, names: list[str], tasks: list[Task], heads: list[Head], part_rows: int) -> None:
    """The parts, in the order of the shards and in the memory of one shard, over whatever a killed run left."""
    shutil.rmtree(out / layout.METADATA, ignore_errors=True)
    schema, _ = whole_schema(head.fields for head in heads)
    rows = []
    for part, members in enumerate(layout.parts_of([head.rows for head in heads], part_rows)):
        path, first = layout.metadata_path(out, part), 0
        with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for number in members:
                task, head = tasks[number], heads[number]
                place = {"part": part, "first_row": first, "rows": head.rows}
                rows.append(shard_row(names[number], task.shard, task.fingerprint, out, **place))
                if head.rows:
                    table = fitted(named(pq.read_table(task.result), names[number]), schema)
                    writer.write_table(table, row_group_size=layout.ROW_GROUP)
                first += head.rows
    layout.write_table(out / layout.SHARDS, pa.Table.from_pylist(rows, schema=layout.SHARDS_SCHEMA))
    write_skipped(out, ((name, *entry) for name, head in zip(names, heads, strict=True) for entry in head.skipped))


def named(table: pa.Table, shard: str) -> pa.Table:
    """A shard's rows with its name."""
    names = pa.array([shard] * table.num_rows, pa.string())
    return table.set_column(table.schema.get_field_index("shard"), "shard", names)
