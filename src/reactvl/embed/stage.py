"""One run of the embed stage: which shards are still to do, the workers that do them, and the folder made whole."""

import functools
import json
import os
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from reactvl import scale
from reactvl.embed import chunks, parts, result
from reactvl.embed.shard import Settings, Task, arithmetic, embed_shards, made_by, prepare
from reactvl.embed.watch import MEGABYTE, Watch
from reactvl.handles.embeddings import Embeddings
from reactvl.manifest import ModelId, ReactvlError, Stage, sha256_json, stage_folder, write_json
from reactvl.models import Model, load
from reactvl.models.encoder import choose_devices, choose_precision
from reactvl.pool.listing import by_reason, downloads, rate, reasons
from reactvl.pool.patterns import expand
from reactvl.pool.records import checked_captions, side_stamp
from reactvl.pool.shards import UNREADABLE, identify, pool_id, shard_names
from reactvl.pool.tars import Fingerprint, same_shard
from reactvl.progress import progress, say

MAX_DECODERS = 16  # threads that decode for one worker, unless more are asked for


class Request(NamedTuple):
    """What the run is asked for, checked: what to embed into which parts, and how."""

    pool: str | list[str]
    shards: dict[Path, Fingerprint]
    model: ModelId
    loaded: Model | None  # None where worker processes load it, under `name`
    name: str
    out: Path
    part_rows: int
    precision: str  # bf16 or fp32
    places: tuple[str, ...]  # the device of each worker
    threads: int
    workers: int | None
    options: dict[str, Any]
    open: Callable[..., AbstractContextManager[Stage]]

    @property
    def id(self) -> str:
        return sha256_json(self.options)


def run_stage(
    pool: str | list[str],
    model: str | Model,
    out: Path,
    *,
    captions: str,
    batch_size: int,
    precision: str,
    device: str,
    executor: str,
    chunk: str,
    workers: int | None,
    threads: int,
    part_rows: int,
    fast_images: bool,
    overwrite: bool,
) -> Embeddings | None:
    """See `reactvl.embed.embed`."""
    if batch_size < 1 or part_rows < 1 or threads < 0 or (workers is not None and workers < 1):
        raise ReactvlError(
            f"batch_size {batch_size}, part_rows {part_rows}, workers {workers}, threads {threads}: "
            "threads are 0 or more, the others 1 or more"
        )
    checked_captions(captions)
    share = chunks.parse(chunk)
    devices = choose_devices(device)
    places = tuple(scale.places(executor, [str(one) for one in devices], cores()))
    paths = expand(pool)
    shards = identify(paths)
    name = str(model) if isinstance(model, str | Path) else model.name
    exact = agreed({choose_precision(precision, one) for one in devices}, device)
    model = load(model)
    options = {
        "model": model.id.sha256,
        "captions": captions,
        "batch_size": batch_size,
        "precision": precision,
        "threads": threads,
        "part_rows": part_rows,
        "fast_images": fast_images,
    }
    inputs = {"pool": pool_id(shards, out)}
    folder = functools.partial(
        stage_folder, out, "embed", options=options, inputs=inputs, model=model.id, piecewise=("pool",)
    )
    request = Request(
        pool=pool,
        shards=shards,
        model=model.id,
        loaded=model if len(places) == 1 else None,
        name=name,
        out=out,
        part_rows=part_rows,
        precision=exact,
        places=places,
        threads=threads,
        workers=workers,
        options=options,
        open=folder,
    )
    del model  # worker processes have their own
    return embed_whole(request, overwrite) if share.whole else embed_chunk(request, share, overwrite)


def agreed(precisions: set[str], device: str) -> str:
    if len(precisions) > 1:
        raise ReactvlError(f"device {device}: not all of these have bf16; pass --precision")
    return precisions.pop()


def embed_whole(request: Request, overwrite: bool) -> Embeddings:
    """All shards that are not done yet, in one process or several, and the folder made whole."""
    chunks.refuse_others(request.out)
    with request.open(overwrite=overwrite) as stage:
        if stage.done:
            say(f"embed: {request.out} is up to date")
            return Embeddings(request.out)
        chunks.refuse_others(request.out)
        tasks, settings = planned(request, stage)
        resumed = embed_missing(tasks, settings, request.loaded, stage.timing)
        return finish(request, stage, tasks, [result.read_head(task.result) for task in tasks], resumed)


def embed_chunk(request: Request, share: chunks.Chunk, overwrite: bool) -> Embeddings | None:
    """The chunk's shards that are not done yet; the folder made whole where they were the last."""
    out, timing = request.out, {}
    with ExitStack() as claim:
        chunks.refuse_others(out, but=request.id)
        with request.open(overwrite=overwrite, wait=chunks.WAIT) as stage:
            if stage.done:
                say(f"embed: {out} is up to date")
                return Embeddings(out)
            claim.enter_context(chunks.claimed(out, share, request.id))
            tasks, settings = planned(request, stage)
        resumed = embed_missing(share.of(tasks), settings, request.loaded, timing)
    with request.open(wait=chunks.WAIT) as stage:
        if stage.done:
            say(f"embed: chunk {share} is done, and with it {out}")
            return Embeddings(out)
        heads = [done_before(task, settings) for task in tasks]
        lacking, others = heads.count(None), chunks.running(out)
        if not lacking and not others:
            stage.timing |= timing
            return finish(request, stage, tasks, heads, resumed)
    left = (
        f"{lacking:,} of {len(tasks):,} shards are to do" if lacking else f"chunk {', '.join(others)} is still running"
    )
    say(f"embed: chunk {share} is done; {left}, and the run that ends last writes {out}")
    return None


def planned(request: Request, stage: Stage) -> tuple[list[Task], Settings]:
    """The tasks of all shards, and what the workers need to know. Under the folder's lock."""
    threads = fixed_threads(stage, request.threads, len(request.places))
    options = request.options
    settings = Settings(
        model=request.name,
        model_sha256=request.model.sha256,
        batch_size=options["batch_size"],
        precision=request.precision,
        places=request.places,
        threads=threads,
        workers=request.workers or max(1, min(MAX_DECODERS, cores() // len(request.places))),
        fast_images=options["fast_images"],
        captions=options["captions"],
        request=request.id,
    )
    return [Task(path, print_, result_path(stage, path)) for path, print_ in request.shards.items()], settings


def embed_missing(tasks: list[Task], settings: Settings, model: Model | None, timing: dict[str, float]) -> int:
    """Make the result files that are missing or out of date; returns how many shards were done before."""
    todo = [task for task in tasks if done_before(task, settings) is None]
    if not todo:
        return len(tasks)
    sizes = {task.shard: task.fingerprint.size for task in tasks}
    workers = min(len(settings.places), len(todo))
    with progress("embedding", sum(sizes.values()) // MEGABYTE, "MB") as bar:
        watch = Watch(bar, sizes)
        watch.skip(sum(sizes.values()) - sum(sizes[task.shard] for task in todo))
        if workers == 1:
            prepare(settings, settings.places[0], model)
        for step in scale.stream(todo, functools.partial(embed_shards, settings), workers):
            watch.step(step)
    timing |= {"pairs_per_second": watch.rate(), "share_waiting_for_data": watch.waiting_share()}
    return len(tasks) - len(todo)


def done_before(task: Task, settings: Settings) -> result.Head | None:
    """The head of the task's result file if it is of the shard as it is now, made in the way that is wanted now."""
    head = result.read_head(task.result)
    if head is None or head.made_by != made_by(settings) | {"side_file": side_stamp(task.shard)}:
        return None
    if UNREADABLE in (task.fingerprint, head.fingerprint):
        return None
    return head if same_shard(task.shard, head.fingerprint) else None


def finish(request: Request, stage: Stage, tasks: list[Task], heads: list[result.Head], resumed: int) -> Embeddings:
    """Write the parts and the manifest from the result files of all shards."""
    counts = counted(heads)
    if not counts["pairs"]:
        raise ReactvlError(
            f"pool {request.pool}: no usable pair in {len(tasks):,} shards ({reasons(counts) or 'they are empty'})"
        )
    names = shard_names(list(request.shards))
    pieces = [parts.Piece(names[task.shard], task, head) for task, head in zip(tasks, heads, strict=True)]
    left_out = parts.write(request.out, pieces, request.model.dim, request.part_rows)
    facts = {
        **arithmetic(request.precision, heads[0].made_by["threads"]),
        "images": dict(sorted(sum((Counter(head.paths) for head in heads), Counter()).items())),
        "damaged_json": sum(head.damaged_json for head in heads),
    }
    if ended := downloads(head.fetched for head in heads):
        facts["downloads"] = ended
    stage.finish(counts=counts, facts=facts | ({"fields_left_out": left_out} if left_out else {}))
    again = f", {resumed:,} of them done before" if resumed else ""
    say(f"embed: {counts['pairs']:,} pairs of {counts['shards']:,} shards{again} -> {request.out}")
    if counts["skipped"]:
        say(f"embed: {counts['skipped']:,} skipped ({reasons(counts)}); listed in {request.out / 'skipped.parquet'}")
    if ended:
        say(f"embed: {rate(ended)}")
    if left_out:
        say(f"embed: {left_out:,} fields of the samples have no column: there are too many; the rarest were left out")
    return Embeddings(request.out)


def fixed_threads(stage: Stage, threads: int, workers: int) -> int:
    """Compute threads of each worker, on which the last bits of a vector may depend: one number for all shards of a
    result."""
    record = stage.work / "threads.json"
    if not threads and record.exists():
        return json.loads(record.read_text())
    threads = threads or max(1, cores() // workers)
    write_json(record, threads)
    return threads


def result_path(stage: Stage, shard: Path) -> Path:
    """Where the result of a shard lies until the parts are written."""
    name = quote(str(shard.resolve()), safe="")
    return stage.work / "shards" / f"{sha256_json(str(shard.resolve()))[:16]}-{name[-100:]}.arrow"


def counted(heads: list[result.Head]) -> dict[str, int]:
    """Pairs, shards, and skipped samples in all and by reason."""
    skipped = Counter(entry.reason for head in heads for entry in head.skipped)
    return {
        "pairs": sum(head.rows for head in heads),
        "shards": len(heads),
        **by_reason(skipped),
    }


def cores() -> int:
    return len(os.sched_getaffinity(0))
