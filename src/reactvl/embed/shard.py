"""Shards through both towers, one after another: scan, decode in threads, encode, hash; each result goes to a file.

Everything in a result is a function of the shard, the model, the options and the number of compute threads: batches are
the shard's images in order, captions are encoded together, and nothing is shared between shards. The model never waits
for what can be done beside it: captions are encoded between the batches of images, and when the last image of a shard is
being decoded, the next shard is scanned and begun; results are written by a thread of their own.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import PIL
import pyarrow as pa
import torch

from reactvl.embed.decoding import Decoded
from reactvl.embed.result import Head, Result, write
from reactvl.embed.watch import Step
from reactvl.manifest import ReactvlError
from reactvl.pool.embeddings_format import METADATA_SCHEMA
from reactvl.pool.fields import Fields, field_columns
from reactvl.pool.images import Picture
from reactvl.pool.reader import forget
from reactvl.pool.records import side_stamp
from reactvl.pool.shards import still_there
from reactvl.pool.tars import Fingerprint, Sample, Skipped, catalogue_or_fault

if TYPE_CHECKING:
    from reactvl.models import Model
    from reactvl.models.encoder import Encoder


class Settings(NamedTuple):
    """What a worker needs to know; picklable, equal for all workers and shards of a run."""

    model: str
    model_sha256: str
    batch_size: int
    precision: str
    places: tuple[str, ...]  # the device of each worker
    threads: int  # that compute
    workers: int  # threads that decode
    fast_images: bool
    captions: str
    request: str  # digest of what was asked for


class Task(NamedTuple):
    """A shard to embed, and the file that its result goes to."""

    shard: Path
    fingerprint: Fingerprint
    result: Path


def embed_shards(settings: Settings, worker: int, tasks: Iterator[Task]) -> Iterator[Step]:
    """Embed shards and write their result files, saying after every batch how far it is.

    An unreadable shard gives a result without rows that says so; ReactvlError for one that changes while it is read.
    """
    encoder = prepare(settings, settings.places[worker])
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    decoders = ThreadPoolExecutor(settings.workers, thread_name_prefix="decode")
    aside = [ThreadPoolExecutor(1, thread_name_prefix=name) for name in ("begin", "write")]
    try:
        coming = Coming(tasks, lambda task: Begun(task, settings, encoder, decoders), aside[0])
        writing: Future | None = None
        asked = time.monotonic()
        for begun in coming:
            waited = time.monotonic() - asked
            result, last = yield from embedded(begun, settings, encoder, coming.begin, waited)
            if writing:
                yield writing.result()
            writing = aside[1].submit(save, begun.task, result, last)
            asked = time.monotonic()
        if writing:
            yield writing.result()
    finally:
        for executor in (decoders, *aside):
            executor.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before)


_encoders: dict[tuple, "Encoder"] = {}  # of this process


def prepare(settings: Settings, device: str, model: "Model | None" = None) -> "Encoder":
    """The encoder of this process, loaded once; ReactvlError when the model of that name is no longer the same."""
    from reactvl.models import load
    from reactvl.models.encoder import Encoder

    which = settings.model, settings.model_sha256, device, settings.precision
    if which not in _encoders:
        model = load(settings.model) if model is None else model
        if model.id.sha256 != settings.model_sha256:
            raise ReactvlError(
                f"{settings.model}: a worker process loads other weights under this name than were given; "
                "save the model to a folder and give that folder, or use --executor local"
            )
        _encoders.clear()  # one model at a time
        _encoders[which] = Encoder(model, device=device, precision=settings.precision)
    return _encoders[which]


class Coming:
    """Shards in the order of the tasks, each begun beside the model: when it is its turn, or before, when `begin` says."""

    def __init__(self, tasks: Iterator[Task], open_shard: Callable[[Task], "Begun"], aside: Executor):
        self.tasks, self.open_shard, self.aside = tasks, open_shard, aside
        self._next: Future | None = None

    def begin(self) -> None:
        """Begin the next shard unless it is begun. Not at once: another worker may be free for it."""
        if self._next is None:
            self._next = next((self.aside.submit(self.open_shard, task) for task in self.tasks), None)

    def __iter__(self) -> Iterator["Begun"]:
        self.begin()
        while self._next is not None:
            begun, self._next = self._next.result(), None
            yield begun
            self.begin()


class Begun:
    """A shard that is scanned, its captions tokenised, its first images on their way through the decoders."""

    def __init__(self, task: Task, settings: Settings, encoder: "Encoder", decoders: Executor):
        self.task = task
        self.side_file = side_stamp(task.shard)
        forget(task.shard)  # an earlier run of this process may have opened another file of this name
        found = catalogue_or_fault(task.shard, settings.captions)
        self.damaged_json, self.skipped, self.fetched = found.damaged_json, list(found.skipped), dict(found.fetched)
        self.usable: list[Sample] = []
        for sample in found.samples:
            fault = unusable(sample, settings.captions)
            self.skipped.append(fault) if fault else self.usable.append(sample)
        self.decoded = Decoded(
            task.shard, self.usable, encoder.model, settings.batch_size, settings.fast_images, decoders
        )
        self.texts = encoder.begin_texts([sample.caption for sample in self.usable])


def unusable(sample: Sample, captions: str) -> Skipped | None:
    """Why a sample is left out before its image is looked at."""
    if sample.status not in (None, "success"):
        return Skipped(sample.key, "download failed", f"img2dataset's status is {sample.status}")
    if sample.caption is None:
        auto = "it has no .txt, and no caption in its .json or the shard's side file"
        return Skipped(sample.key, "no caption", auto if captions == "auto" else f"it has none in {captions}")
    if not sample.caption.strip():
        return Skipped(sample.key, "empty caption", "its caption is blank")
    return None


def embedded(
    begun: Begun, settings: Settings, encoder: "Encoder", begin_next: Callable[[], None], waited: float
) -> Iterator[Step]:
    """Yields steps, returns the shard's result and its last step, for when that is written."""
    began = time.monotonic() - waited
    decoded, usable = begun.decoded, begun.usable
    rows, vectors, pictures = [], [np.zeros((0, encoder.model.id.dim), np.float16)], []
    for batch in decoded.batches():
        pixels = torch.from_numpy(np.stack([picture.pixels for _, _, picture in batch]))  # (B, 3, size, size)
        vectors.append(encoder.images(pixels).astype(np.float16))
        for row, digest, picture in batch:
            rows.append(row)
            pictures.append((digest, picture._replace(pixels=None)))
        begun.texts.advance(decoded.taken / len(usable))
        if decoded.all_begun:
            begin_next()
        yield step_of(begun, decoded.taken, began, waited)
    texts = begun.texts.vectors().astype(np.float16)[rows]
    images = np.concatenate(vectors)
    finite = np.isfinite(images).all(axis=1) & np.isfinite(texts).all(axis=1)
    kept = np.flatnonzero(finite)
    skipped = begun.skipped + decoded.skipped
    skipped += [
        Skipped(usable[rows[at]].key, "vector not finite", "the model gives a NaN or an infinity")
        for at in np.flatnonzero(~finite)
    ]
    table, fields = metadata([usable[rows[at]] for at in kept], [pictures[at] for at in kept])
    head = Head(
        rows=len(kept),
        fingerprint=begun.task.fingerprint,
        skipped=skipped,
        paths=dict(sorted(Counter(pictures[at][1].path for at in kept).items())),
        damaged_json=begun.damaged_json,
        fields=fields,
        made_by=made_by(settings) | {"side_file": begun.side_file},
        fetched=begun.fetched,
    )
    last = step_of(begun, len(kept), began, waited)._replace(ended=True)
    return Result(head, images[kept], texts[kept], table), last


def step_of(begun: Begun, done: int, began: float, waited: float) -> Step:
    seconds = time.monotonic() - began
    return Step(begun.task.shard, done, len(begun.usable), seconds, waited + begun.decoded.waiting)


def save(task: Task, result: Result, last: Step) -> Step:
    if result.head.rows and not still_there(task.shard, task.fingerprint):
        raise ReactvlError(
            f"shard {task.shard}: has changed or gone while it was read; run again when the pool is complete"
        )
    write(task.result, result)
    return last


def made_by(settings: Settings) -> dict[str, Any]:
    """What the bytes of a result depend on, besides the shard and its side file."""
    return {"request": settings.request, **arithmetic(settings.precision, settings.threads)}


def arithmetic(precision: str, threads: int) -> dict[str, Any]:
    return {"precision": precision, "threads": threads, "torch": str(torch.__version__), "pillow": PIL.__version__}


def metadata(samples: list[Sample], pictures: list[tuple[bytes, Picture]]) -> tuple[pa.Table, Fields]:
    """The rows of metadata of these samples and what fields they have; `shard` is null, since its name depends on the
    whole pool."""
    columns = {
        "key": [sample.key for sample in samples],
        "shard": [None] * len(samples),
        "offset": [sample.offset for sample in samples],
        "size": [sample.size for sample in samples],
        "caption": [sample.caption for sample in samples],
        "url": [sample.url for sample in samples],
        "sha256": [digest for digest, _ in pictures],
        "phash": [int(picture.phash) for _, picture in pictures],
        "ext": [sample.ext for sample in samples],
        "width": [picture.width for _, picture in pictures],
        "height": [picture.height for _, picture in pictures],
    }
    table = pa.table(columns, schema=METADATA_SCHEMA)
    extra, fields = field_columns([sample.fields for sample in samples])
    for name in fields:
        table = table.append_column(extra.schema.field(name), extra[name])
    return table, fields
