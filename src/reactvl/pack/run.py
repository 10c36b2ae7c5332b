"""One run of the pack stage: the source looked at, its shards made, the folder made whole."""

import functools
from pathlib import Path

from reactvl import scale
from reactvl.handles.pool import Pool
from reactvl.manifest import InputId, ReactvlError, stage_folder
from reactvl.pack.shard import pack_shard
from reactvl.pack.sources import look_at
from reactvl.pool.copies import counted, sweep
from reactvl.pool.listing import reasons, write_skipped
from reactvl.pool.records import checked_captions
from reactvl.progress import progress, say


def run_stage(
    source: Path,
    out: Path,
    *,
    input_format: str,
    captions: str,
    per_shard: int,
    columns: tuple[str, str, str],
    workers: int,
    overwrite: bool,
) -> Pool:
    """See `reactvl.pack.pack`."""
    if per_shard < 1 or workers < 1:
        raise ReactvlError(f"per_shard {per_shard}, workers {workers}: use 1 or more")
    checked_captions(captions)
    if out.resolve() == source.resolve() or source.resolve() in out.resolve().parents:
        raise ReactvlError(f"{out}: lies in the source {source}; choose an --out outside of it")
    found = look_at(source, input_format, per_shard, columns)
    options = {
        "input_format": found.kind,
        "captions": captions,
        "per_shard": per_shard,
        "csv_columns": list(columns) if found.kind == "csv" else None,
    }
    inputs = {"source": InputId(str(source.resolve()), found.sha256)}
    with stage_folder(out, "pack", options=options, inputs=inputs, overwrite=overwrite, piecewise=("source",)) as stage:
        if stage.done:
            say(f"pack: {out} is up to date")
            return Pool(out)
        sweep(out, found.names)
        written = []
        work = functools.partial(pack_shard, out=out, captions=captions)
        with progress("packing", len(found.names), "shards") as bar:
            for shard, before in scale.run(found.tasks, work, min(workers, len(found.names))):
                written.append(shard)
                bar.advance(resumed=before, note=f"{sum(one.pairs for one in written):,} pairs")
        counts = counted(written) | {"uncaptioned": sum(shard.uncaptioned for shard in written)}
        if not counts["pairs"]:
            raise ReactvlError(f"{source}: no picture of it can be packed ({reasons(counts)})")
        write_skipped(out, (left for shard in written for left in shard.left_out))
        stage.finish(counts=counts)
    say(f"pack: {counts['pairs']:,} pairs in {counts['shards']:,} shards -> {out}")
    if counts["uncaptioned"]:
        say(f"pack: {counts['uncaptioned']:,} of them have no caption; `embed` will list them as such")
    if counts["skipped"]:
        say(f"pack: {counts['skipped']:,} skipped ({reasons(counts)}); listed in {out / 'skipped.parquet'}")
    return Pool(out)
