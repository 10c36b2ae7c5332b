"""One run of the embed stage: which shards are still to do, the workers that do them, and the folder made whole."""

import functools
import json
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

from reactvl import scale
from reactvl.embed import parts, result
from reactvl.embed.shard import Report, Settings, Task, cores, embed_shard, made_by, prepare
from reactvl.handles.embeddings import Embeddings
from reactvl.manifest import InputId, ReactvlError, Stage, sha256_json, stage_folder, write_json
from reactvl.models import Model, load
from reactvl.models.encoder import choose_device, choose_precision
from reactvl.pool.patterns import expand
from reactvl.pool.tars import Fingerprint, fingerprint, same_shard
from reactvl.progress import Progress, progress, say

MAX_DECODERS = 16  # threads that decode for one worker


def run_stage(
    pool: str | list[str],
    model: str | Model,
    out: Path,
    *,
    batch_size: int,
    precision: str,
    device: str,
    workers: int,
    threads: int,
    part_rows: int,
    fast_images: bool,
    overwrite: bool,
) -> Embeddings:
    """See `reactvl.embed.embed`."""
    if batch_size < 1 or part_rows < 1 or workers < 1 or threads < 0:
        raise ReactvlError(
            f"batch_size {batch_size}, part_rows {part_rows}, workers {workers}, threads {threads}: "
            "threads are 0 or more, the others 1 or more"
        )
    paths = expand(pool)
    shards = identify(paths)
    name = str(model) if isinstance(model, str | Path) else model.name
    exact = choose_precision(precision, choose_device(device))
    model = load(model)
    options = {
        "model": model.id.sha256,
        "batch_size": batch_size,
        "precision": precision,
        "threads": threads,
        "part_rows": part_rows,
        "fast_images": fast_images,
    }
    inputs = {"pool": pool_id(shards, out)}
    with stage_folder(
        out, "embed", options=options, inputs=inputs, model=model.id, overwrite=overwrite, piecewise=("pool",)
    ) as stage:
        if stage.done:
            say(f"embed: {out} is up to date")
            return Embeddings(out)
        threads = fixed_threads(stage, threads, workers)
        settings = Settings(
            model=name,
            model_sha256=model.id.sha256,
            batch_size=batch_size,
            precision=exact,
            device=device,
            threads=threads,
            decoders=max(1, min(MAX_DECODERS, cores() // workers)),
            fast_images=fast_images,
        )
        tasks = [Task(path, print_, result_path(stage, path)) for path, print_ in shards.items()]
        resumed = embed_shards(stage, tasks, settings, model, workers)
        names = shard_names(paths)
        heads = [result.read_head(task.result) for task in tasks]
        counts = counted(heads)
        if not counts["pairs"]:
            raise ReactvlError(
                f"pool {pool}: no usable pair in {len(tasks):,} shards ({reasons(counts) or 'they are empty'})"
            )
        parts.write(
            out,
            [parts.Piece(names[task.shard], task, head) for task, head in zip(tasks, heads, strict=True)],
            model.id.dim,
            part_rows,
        )
        stage.finish(
            counts=counts,
            facts={
                **made_by(exact, threads),
                "images": dict(sorted(sum((Counter(head.paths) for head in heads), Counter()).items())),
                "damaged_json": sum(head.damaged_json for head in heads),
            },
        )
    again = f", {resumed:,} of them done before" if resumed else ""
    say(f"embed: {counts['pairs']:,} pairs of {counts['shards']:,} shards{again} -> {out}")
    if counts["skipped"]:
        say(f"embed: {counts['skipped']:,} skipped ({reasons(counts)}); listed in {out / 'skipped.parquet'}")
    return Embeddings(out)


def embed_shards(stage: Stage, tasks: list[Task], settings: Settings, model: Model, workers: int) -> int:
    """Make the result files that are missing or out of date; returns how many shards were done before."""
    wanted = made_by(settings.precision, settings.threads)
    todo = [task for task in tasks if not is_done(task, wanted)]
    if not todo:
        return len(tasks)
    workers = min(workers, len(todo))
    with progress("embedding", megabytes(tasks), "MB") as bar:
        watch = Watch(bar)
        watch.skip(sum(task.fingerprint.size for task in tasks) - sum(task.fingerprint.size for task in todo))
        if workers == 1:
            prepare(settings, model)
        else:
            del model  # each worker has its own
        work = functools.partial(embed_shard, settings=settings)
        if workers == 1:
            work = functools.partial(watched, settings=settings, watch=watch)
        for task, report in zip(todo, scale.run(todo, work, workers), strict=True):
            watch.finished(task, report)
    stage.timing |= {"pairs_per_second": watch.rate(), "share_waiting_for_data": watch.waiting_share()}
    return len(tasks) - len(todo)


def watched(task: Task, settings: Settings, watch: "Watch") -> Report:
    """`embed_shard` in this process, showing progress after every batch."""
    return embed_shard(task, settings, functools.partial(watch.batch, task))


class Watch:
    """Turns what workers say into a progress bar over the shards' bytes, with pairs a second and the share of
    waiting."""

    def __init__(self, bar: Progress):
        self.bar, self.began = bar, time.monotonic()
        self.bytes = self.rows = 0
        self.seconds = self.waiting = 0.0

    def skip(self, size: int) -> None:
        self.bytes += size
        self.bar.advance(self.bytes // MEGABYTE, resumed=True)

    def batch(self, task: Task, done: int, rows: int, waiting: float) -> None:
        """`done` of the shard's `rows` are embedded."""
        elapsed = max(time.monotonic() - self.began, 1e-9)
        size = task.fingerprint.size * done // max(rows, 1)
        self._show(self.bytes + size, self.rows + done, (self.waiting + waiting) / elapsed)

    def finished(self, task: Task, report: Report) -> None:
        self.bytes += task.fingerprint.size
        self.rows += report.rows
        self.seconds += report.seconds
        self.waiting += report.waiting
        self._show(self.bytes, self.rows, self.waiting_share())

    def rate(self) -> float:
        return self.rows / max(time.monotonic() - self.began, 1e-9)

    def waiting_share(self) -> float:
        return self.waiting / max(self.seconds, 1e-9)

    def _show(self, size: int, rows: int, share: float) -> None:
        rate = rows / max(time.monotonic() - self.began, 1e-9)
        note = f"{rows:,} pairs, {rate:,.0f} pairs/s, {share:.0%} waiting for data"
        self.bar.advance(size // MEGABYTE - self.bar.done, note)


MEGABYTE = 1_000_000


def megabytes(tasks: list[Task]) -> int:
    return sum(task.fingerprint.size for task in tasks) // MEGABYTE


def identify(paths: list[Path]) -> dict[Path, Fingerprint]:
    """The fingerprint of every shard; one that cannot be read has size 0 and no hash, and is listed when its turn
    comes."""

    def one(path: Path) -> Fingerprint:
        try:
            return fingerprint(path)
        except OSError:
            return UNREADABLE

    with ThreadPoolExecutor(MAX_DECODERS) as readers:
        return dict(zip(paths, readers.map(one, paths), strict=True))


UNREADABLE = Fingerprint(0, 0, "")


def pool_id(shards: dict[Path, Fingerprint], out: Path) -> InputId:
    """The pool's identity: its shards' names, sizes and ends. Modification times are left out: a copy is the same
    pool."""
    home = Path(os.path.commonpath([path.resolve().parent for path in shards]))
    near = home.is_relative_to(out.resolve().parent)
    names = shard_names(list(shards))
    content = [[names[path], print_.size, print_.ends_sha256] for path, print_ in shards.items()]
    return InputId(path=os.path.relpath(home, out.resolve()) if near else str(home), sha256=sha256_json(content))


def shard_names(paths: list[Path]) -> dict[Path, str]:
    """Short names: the file's, with as many of its folders as tell it from the others of that name."""
    names = {path: path.name for path in paths}
    depth = 1
    while len(clashing := {name for name, count in Counter(names.values()).items() if count > 1}) > 0:
        depth += 1
        names |= {path: "/".join(path.resolve().parts[-depth:]) for path, name in names.items() if name in clashing}
    return names


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


def is_done(task: Task, wanted: dict) -> bool:
    """Whether the task's result file is of the shard as it is now, made in the way that is wanted now."""
    head = result.read_head(task.result)
    if head is None or head.made_by != wanted:
        return False
    if task.fingerprint == UNREADABLE or head.fingerprint == UNREADABLE:
        return False
    return same_shard(task.shard, head.fingerprint)


def counted(heads: list[result.Head]) -> dict[str, int]:
    """Pairs, shards, and skipped samples in all and by reason."""
    skipped = Counter(entry.reason for head in heads for entry in head.skipped)
    return {
        "pairs": sum(head.rows for head in heads),
        "shards": len(heads),
        "skipped": skipped.total(),
        **{f"skipped: {reason}": count for reason, count in sorted(skipped.items())},
    }


def reasons(counts: dict[str, int]) -> str:
    """`3 no caption, 1 truncated`"""
    found = {name.removeprefix("skipped: "): count for name, count in counts.items() if name.startswith("skipped: ")}
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(found.items(), key=lambda item: -item[1]))
