"""One shard through both towers: scan, decode in threads, encode, hash; the result goes to a file.

Everything in the result is a function of the shard, the model, the options and the number of compute threads: batches
are the shard's images in order, captions are encoded together, and nothing is shared between shards.
"""

import hashlib
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import PIL
import pyarrow as pa
import torch

from reactvl.embed.result import Result, write
from reactvl.manifest import ReactvlError
from reactvl.pool.embeddings_format import METADATA_SCHEMA
from reactvl.pool.images import BadImage, Picture, picture
from reactvl.pool.reader import forget, read_image
from reactvl.pool.tars import Catalogue, Fingerprint, Sample, Skipped, catalogue, same_shard

if TYPE_CHECKING:
    from reactvl.models import Model
    from reactvl.models.encoder import Encoder

BATCHES_AHEAD = 3  # decoded or being decoded while the model computes


class Settings(NamedTuple):
    """What a worker needs to know; picklable, equal for all shards of a run."""

    model: str
    model_sha256: str
    batch_size: int
    precision: str
    device: str
    threads: int
    decoders: int
    fast_images: bool


class Task(NamedTuple):
    """A shard to embed, and the file that its result goes to."""

    shard: Path
    fingerprint: Fingerprint
    result: Path


class Report(NamedTuple):
    """What a worker says of a shard that is done."""

    rows: int
    seconds: float
    waiting: float  # seconds of them that the model waited for decoded images


Advance = Callable[[int, int, float], None]  # (rows done, rows of the shard, seconds waited) after a batch
_encoders: dict[tuple, "Encoder"] = {}  # of this process


def prepare(settings: Settings, model: "Model | None" = None) -> "Encoder":
    """The encoder of this process, loaded once; ReactvlError when the model of that name is no longer the same."""
    from reactvl.models import load
    from reactvl.models.encoder import Encoder

    which = settings.model, settings.model_sha256, settings.device, settings.precision
    if which not in _encoders:
        model = load(settings.model) if model is None else model
        if model.id.sha256 != settings.model_sha256:
            raise ReactvlError(
                f"{settings.model}: a worker process loads other weights under this name than were given; "
                "save the model to a folder and give that folder, or use one worker"
            )
        _encoders.clear()  # one model at a time
        _encoders[which] = Encoder(model, device=settings.device, precision=settings.precision)
    return _encoders[which]


def embed_shard(task: Task, settings: Settings, advance: Advance | None = None) -> Report:
    """Embed one shard and write its result file. Unreadable shards give a result without rows that says so."""
    encoder = prepare(settings)
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    began = time.monotonic()
    try:
        result, waiting = embedded(task, settings, encoder, advance or (lambda *_: None))
    finally:
        torch.set_num_threads(before)
    if result.metadata.num_rows and not still_there(task):
        raise ReactvlError(
            f"shard {task.shard}: has changed or gone while it was read; run again when the pool is complete"
        )
    write(task.result, result)
    return Report(len(result.images), time.monotonic() - began, waiting)


def still_there(task: Task) -> bool:
    """Whether the shard is the file that the run began with; a pool may vanish under a long run."""
    try:
        return same_shard(task.shard, task.fingerprint)
    except OSError:
        return False


def made_by(precision: str, threads: int) -> dict[str, Any]:
    """What the bytes of a result depend on, besides the shard and what was asked for."""
    return {"precision": precision, "threads": threads, "torch": str(torch.__version__), "pillow": PIL.__version__}


def embedded(task: Task, settings: Settings, encoder: "Encoder", advance: Advance) -> tuple[Result, float]:
    forget(task.shard)  # an earlier run of this process may have opened another file of this name
    try:
        found = catalogue(task.shard)
    except OSError as fault:
        found = Catalogue([], [Skipped("", "unreadable shard", fault.strerror or str(fault))], 0)
    skipped, usable = list(found.skipped), []
    for sample in found.samples:
        fault = unusable(sample)
        skipped.append(fault) if fault else usable.append(sample)

    decoded = Decoded(task.shard, usable, encoder.model, settings)
    with decoded:
        # the decoders fill their queue while the captions are encoded
        texts = encoder.texts([sample.caption for sample in usable]).astype(np.float16)
        rows, vectors, pictures = [], [np.zeros((0, encoder.model.id.dim), np.float16)], []
        for batch in decoded.batches():
            pixels = torch.from_numpy(np.stack([picture.pixels for _, _, picture in batch]))  # (B, 3, size, size)
            vectors.append(encoder.images(pixels).astype(np.float16))
            for row, digest, picture in batch:
                rows.append(row)
                pictures.append((digest, picture.phash, picture.path))
            advance(decoded.taken, len(usable), decoded.waiting)
    skipped += decoded.skipped
    images, texts = np.concatenate(vectors), texts[rows]
    finite = np.isfinite(images).all(axis=1) & np.isfinite(texts).all(axis=1)
    kept = np.flatnonzero(finite)
    skipped += [
        Skipped(usable[rows[at]].key, "vector not finite", "the model gives a NaN or an infinity")
        for at in np.flatnonzero(~finite)
    ]
    result = Result(
        fingerprint=task.fingerprint,
        images=images[kept],
        texts=texts[kept],
        metadata=metadata([usable[rows[at]] for at in kept], [pictures[at] for at in kept]),
        skipped=skipped,
        paths=dict(Counter(pictures[at][2] for at in kept)),
        damaged_json=found.damaged_json,
        made_by=made_by(encoder.precision, settings.threads),
    )
    return result, decoded.waiting


def unusable(sample: Sample) -> Skipped | None:
    """Why a sample is left out before its image is looked at."""
    if sample.status not in (None, "success"):
        return Skipped(sample.key, "download failed", f"img2dataset's status is {sample.status}")
    if sample.caption is None:
        return Skipped(sample.key, "no caption", "it has no .txt and no caption in its .json")
    if not sample.caption.strip():
        return Skipped(sample.key, "empty caption", "its caption is blank")
    return None


class Decoded:
    """The usable images of a shard in order, decoded by threads, at most `BATCHES_AHEAD` batches before they are
    asked for.

    `skipped` lists the images that were none, `waiting` sums the seconds that `batches` had to wait, `taken` counts
    samples.
    """

    def __init__(self, shard: Path, samples: list[Sample], model: "Model", settings: Settings):
        self.shard, self.samples, self.batch_size = shard, samples, settings.batch_size
        self.options = {
            "size": model.image_size,
            "resize_mode": model.resize_mode,
            "interpolation": model.interpolation,
            "fill": model.config["preprocess_cfg"].get("fill_color", 0),
            "fast": settings.fast_images,
        }
        self.skipped: list[Skipped] = []
        self.waiting, self.taken = 0.0, 0
        self._decoders = ThreadPoolExecutor(settings.decoders, thread_name_prefix="decode")
        self._queue: deque[Future] = deque()
        self._to_come = iter(samples)
        self._fill()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._decoders.shutdown(wait=True, cancel_futures=True)

    def batches(self) -> Iterator[list[tuple[int, bytes, Picture]]]:
        """Batches of (sample's number, SHA-256 of the file, picture): the next `batch_size` images that are whole."""
        batch = []
        while self._queue:
            began = time.monotonic()
            outcome = self._queue.popleft().result()
            self.waiting += time.monotonic() - began
            self._fill()
            if isinstance(outcome, BadImage):
                self.skipped.append(Skipped(self.samples[self.taken].key, outcome.reason, outcome.detail))
            else:
                batch.append((self.taken, *outcome))
            self.taken += 1
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _fill(self) -> None:
        room = BATCHES_AHEAD * self.batch_size - len(self._queue)
        self._queue.extend(self._decoders.submit(self._decode, sample) for sample in islice(self._to_come, room))

    def _decode(self, sample: Sample) -> tuple[bytes, Picture] | BadImage:
        try:
            data = read_image(self.shard, sample.offset, sample.size)
            return hashlib.sha256(data).digest(), picture(data, **self.options)
        except BadImage as fault:
            return fault
        except ReactvlError as fault:
            return BadImage("unreadable image", str(fault))


def metadata(samples: list[Sample], pictures: list[tuple[bytes, np.uint64, str]]) -> pa.Table:
    """The rows of metadata of these samples; `shard` is null, since its name depends on the whole pool."""
    columns = {
        "key": [sample.key for sample in samples],
        "shard": [None] * len(samples),
        "offset": [sample.offset for sample in samples],
        "size": [sample.size for sample in samples],
        "caption": [sample.caption for sample in samples],
        "url": [sample.url for sample in samples],
        "sha256": [digest for digest, _, _ in pictures],
        "phash": [int(phash) for _, phash, _ in pictures],
        "ext": [sample.ext for sample in samples],
    }
    return pa.table(columns, schema=METADATA_SCHEMA)


def cores() -> int:
    return len(os.sched_getaffinity(0))
