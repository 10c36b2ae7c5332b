"""Augmented views of pairs, made by worker processes in the order that the steps want them."""

import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from reactvl.manifest import ReactvlError
from reactvl.pool.images import BadImage
from reactvl.pool.reader import forget, read_image, read_many
from reactvl.train.pairs import ShardGone, TrainingPairs
from reactvl.train.table import Table

AHEAD = 4  # batches that a worker makes ahead of the step
AHEAD_BYTES = 2 << 30  # of pixels made ahead by all workers together, as long as that leaves each its one batch
THREADS = 4  # that read for one worker


class Augmentation(Protocol):
    """What makes the model's input of a picture, in two parts: `augmentation.Augment`, `tensor_augmentation.TensorAugment`."""

    def in_worker(self, data: bytes, epoch: int, sample: int) -> Tensor:
        """An image file's bytes to (3, S, S), in a worker process; BadImage for what is no picture."""

    def on_device(self, pixels: Tensor, epochs: np.ndarray, samples: np.ndarray) -> Tensor:
        """A batch of these (n, 3, S, S) to the model's input, float32, on whatever device they are."""


class Batch(NamedTuple):
    pixels: Tensor
    rows: np.ndarray
    bad: dict[int, str]


class Loaded(Batch):
    """One item of the plan: `pixels` (n, 3, S, S) as `in_worker` left them, `rows` (n,) int64 in the plan's order, and
    `bad`: the rows left out, with "reason: details". `epochs` (n,) int64 and `samples` (n,) uint64 are what `on_device`
    wants besides the pixels."""

    epochs: np.ndarray
    samples: np.ndarray


class Made(NamedTuple):
    """What a worker sends: `kept` (n,) are places in the item of the plan; `gone` says which shard has gone, if one has."""

    pixels: Tensor
    kept: np.ndarray
    bad: dict[int, str]
    gone: str


def batches(
    pairs: TrainingPairs,
    augment: Augmentation,
    plan: Iterable[list[tuple[int, int]]],
    workers: int | None = None,
    *,
    pin_memory: bool = False,
    start_method: str | None = None,
) -> Iterator[Loaded]:
    """For each list of (row, epoch) of the plan, in order, its pictures; the same bytes for any number of workers.

    `workers`: processes, by default one a core, at least one (augmentation seeds a process's global generators). They end
    with the iterator, also when it is closed early or fails. Raises ShardGone, naming the shard, when one has disappeared
    or changed: the batches before have been given out. `start_method`: fork, spawn, forkserver (default: torch's).
    """
    plan = (list(item) for item in plan)
    if (first := next(plan, None)) is None:
        return
    table = Table.of(pairs)
    count = max(len(os.sched_getaffinity(0)) if workers is None else workers, 1)
    planned: deque[tuple[np.ndarray, np.ndarray, list[int]]] = deque()

    def noted() -> Iterator[list[tuple[int, int]]]:
        for item in chain([first], plan):
            rows, epochs = np.array(item, np.int64).reshape(-1, 2).T
            shards = np.unique(table.shard[rows]).tolist()
            if pairs.storage is not None:
                pairs.storage.hold(shards)
            planned.append((rows, epochs, shards))
            yield item

    made_batches = iter(
        DataLoader(
            Views(table, augment),
            batch_sampler=noted(),
            num_workers=count,
            collate_fn=as_it_is,
            prefetch_factor=max(1, min(AHEAD, AHEAD_BYTES // max(len(first) * augment.sample_bytes * count, 1))),
            pin_memory=pin_memory,
            worker_init_fn=quiet,
            multiprocessing_context=start_method,
        )
    )
    try:
        while (made := following(made_batches)) is not None:
            rows, epochs, shards = planned.popleft()
            if pairs.storage is not None:
                pairs.storage.release(shards)
            if made.gone:
                raise ShardGone(made.gone)
            loaded = Loaded(made.pixels, rows[made.kept], made.bad)
            loaded.epochs, loaded.samples = epochs[made.kept], table.seed[loaded.rows]
            yield loaded
    finally:
        if pairs.storage is not None:
            pairs.storage.release([shard for _, _, shards in planned for shard in shards])
        made_batches._shutdown_workers()  # now, not whenever the last reference (a traceback's, say) goes


def following(made_batches: Iterator[Made]) -> Made | None:
    """The next batch, None at the end; ReactvlError when a worker has died."""
    try:
        return next(made_batches, None)
    except RuntimeError as fault:
        if "DataLoader worker" not in str(fault):
            raise
        raise ReactvlError(
            f"a process that makes views has died ({str(fault).splitlines()[0]}); most likely for lack of memory, or of "
            "shared memory (docker run --shm-size): fewer --workers or a smaller --batch-size need less"
        ) from None


class Views(Dataset):
    """Items (row, epoch): augmented pictures. What is pickled is of constant size; see `table.py`."""

    def __init__(self, table: Table, augment: Augmentation):
        self.table, self.augment = table, augment

    def __getitems__(self, items: list[tuple[int, int]]) -> Made:
        table = self.table
        rows = [row for row, _ in items]
        shards = table.shard[rows].tolist()
        try:
            paths = {}
            for shard in sorted(set(shards)):
                table.check(shard)
                paths[shard] = table.path(shard)
            requests = [
                (paths[shard], table.offset[row], table.size[row]) for shard, row in zip(shards, rows, strict=True)
            ]
            pictures: list[Tensor | None] = [None] * len(items)
            bad = {}
            for place, data in read_many(requests, threads=THREADS):
                row, epoch = items[place]
                try:
                    if isinstance(data, ReactvlError):
                        data = self.again(shards[place], requests[place], data)
                    pictures[place] = self.augment.in_worker(data, epoch, int(table.seed[row]))
                except BadImage as fault:
                    bad[row] = str(fault)
        except ShardGone as fault:
            return Made(torch.empty(0), np.empty(0, np.int64), {}, str(fault))
        kept = [place for place, picture in enumerate(pictures) if picture is not None]
        pixels = torch.stack([pictures[place] for place in kept]) if kept else torch.empty(0)
        return Made(pixels, np.array(kept, np.int64), {row: bad[row] for row in rows if row in bad}, "")

    def again(self, shard: int, request: tuple[str, int, int], fault: ReactvlError) -> bytes:
        """A failed read a second time, from the file that lies there now: what was open may have been another.

        ShardGone when that is no longer the shard; BadImage when this place alone cannot be read.
        """
        forget(request[0])
        self.table.check(shard)
        try:
            return read_image(*request)
        except ReactvlError:
            raise BadImage("unreadable image", str(fault)) from None


def as_it_is(made: Made) -> Made:
    return made


def quiet(_: int) -> None:
    """An interrupt is the main process's to handle; it ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
