"""Image features of encoded images: read and decoded in threads while the model works on the batch before."""

import collections
import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from reactvl.models.encoder import Encoder
from reactvl.pool.images import BadImage, to_pixels

AHEAD = 3  # batches that are read before their turn

Read = Callable[[int], bytes]


@dataclasses.dataclass
class Clock:
    """Seconds spent waiting for pixels and in the image tower."""

    data: float = 0.0
    model: float = 0.0

    @property
    def waiting(self) -> float:
        """Share of the time that the model waited for data."""
        return self.data / max(self.data + self.model, 1e-9)


@dataclasses.dataclass(frozen=True)
class Batch:
    """Features float32 (len(rows), dim) of the images `rows`; `bad` lists the others of the batch: (row, reason)."""

    rows: list[int]
    vectors: np.ndarray
    bad: list[tuple[int, str]]


def encode_images(
    encoder: Encoder,
    read: Read,
    rows: range,
    *,
    batch_size: int = 64,
    threads: int | None = None,
    clock: Clock | None = None,
) -> Iterator[Batch]:
    """Features of the images that `read(row)` gives, in order, in batches; memory is bounded by a few batches.

    An image that cannot be decoded is listed in its batch's `bad` and left out; so is one for which `read` raises
    BadImage. Any other error of `read` ends the iteration.
    """
    batches = ((read, batch) for batch in batched(rows, batch_size))
    return encode_batches(encoder, batches, threads=threads, clock=clock)


def batched(rows: range, batch_size: int) -> Iterator[range]:
    for start in range(rows.start, rows.stop, batch_size):
        yield range(start, min(start + batch_size, rows.stop))


def encode_batches(
    encoder: Encoder, batches: Iterable[tuple[Read, range]], *, threads: int | None = None, clock: Clock | None = None
) -> Iterator[Batch]:
    """`encode_images` of batches of any sources, one `Batch` each, in order; a few are taken before their turn, so that
    the model does not wait where one source ends and the next begins."""
    clock = clock or Clock()
    model = encoder.model
    shape = {"resize_mode": model.resize_mode, "interpolation": model.interpolation}

    def pixels(read: Read, row: int) -> np.ndarray | BadImage:
        try:
            return to_pixels(read(row), model.image_size, **shape)
        except BadImage as fault:
            return fault

    waiting: collections.deque[tuple[range, list[Future]]] = collections.deque()
    with ThreadPoolExecutor(threads or min(len(os.sched_getaffinity(0)) + 1, 16), "decode") as pool:
        try:
            for read, here in batches:
                waiting.append((here, [pool.submit(pixels, read, row) for row in here]))
                if len(waiting) > AHEAD:
                    yield encoded(encoder, *waiting.popleft(), clock)
            while waiting:
                yield encoded(encoder, *waiting.popleft(), clock)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def encoded(encoder: Encoder, rows: range, pending: list[Future], clock: Clock) -> Batch:
    began = time.monotonic()
    results = [future.result() for future in pending]
    ready = time.monotonic()
    clock.data += ready - began
    good = [(row, result) for row, result in zip(rows, results, strict=True) if not isinstance(result, BadImage)]
    bad = [(row, str(result)) for row, result in zip(rows, results, strict=True) if isinstance(result, BadImage)]
    if good:
        vectors = encoder.images(torch.from_numpy(np.stack([pixels for _, pixels in good])))
    else:
        vectors = np.zeros((0, encoder.model.id.dim), np.float32)
    clock.model += time.monotonic() - ready
    return Batch([row for row, _ in good], vectors, bad)
