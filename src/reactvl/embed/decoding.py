"""The images of one shard, decoded by threads while the model works."""

import hashlib
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from reactvl.manifest import ReactvlError
from reactvl.pool.images import BadImage, Picture, picture
from reactvl.pool.reader import read_image
from reactvl.pool.tars import Sample, Skipped

if TYPE_CHECKING:
    from reactvl.models import Model

BATCHES_AHEAD = 3  # decoded or being decoded while the model computes


class Decoded:
    """The images of some samples of a shard in order, decoded by `decoders`; a batch of them from the beginning, and at
    most `BATCHES_AHEAD` batches before they are asked for.

    `skipped` lists the images that were none, `waiting` sums the seconds that `batches` had to wait, `taken` counts
    samples, `all_begun` says that no sample is left for the decoders to begin.
    """

    def __init__(
        self, shard: Path, samples: list[Sample], model: "Model", batch_size: int, fast: bool, decoders: Executor
    ):
        self.shard, self.samples, self.batch_size, self.decoders = shard, samples, batch_size, decoders
        self.options = {
            "size": model.image_size,
            "resize_mode": model.resize_mode,
            "interpolation": model.interpolation,
            "fill": model.config["preprocess_cfg"].get("fill_color", 0),
            "fast": fast,
        }
        self.skipped: list[Skipped] = []
        self.waiting, self.taken = 0.0, 0
        self._queue: deque[Future] = deque()
        self._to_come = iter(samples)
        self._begun = 0
        self._fill(1)

    @property
    def all_begun(self) -> bool:
        return self._begun == len(self.samples)

    def batches(self) -> Iterator[list[tuple[int, bytes, Picture]]]:
        """Batches of (sample's number, SHA-256 of the file, picture): the next `batch_size` images that are whole."""
        batch = []
        self._fill(BATCHES_AHEAD)
        while self._queue:
            began = time.monotonic()
            outcome = self._queue.popleft().result()
            self.waiting += time.monotonic() - began
            self._fill(BATCHES_AHEAD)
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

    def _fill(self, batches: int) -> None:
        some = list(islice(self._to_come, max(batches * self.batch_size - len(self._queue), 0)))
        self._begun += len(some)
        self._queue.extend(self.decoders.submit(self._decode, sample) for sample in some)

    def _decode(self, sample: Sample) -> tuple[bytes, Picture] | BadImage:
        try:
            data = read_image(self.shard, sample.offset, sample.size)
            return hashlib.sha256(data).digest(), picture(data, **self.options)
        except BadImage as fault:
            return fault
        except ReactvlError as fault:
            return BadImage("unreadable image", str(fault))
