"""One process's batches of a run, from any step on: pictures, augmented, through the frozen lower tower; texts beside them."""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import torch

from reactvl.customize.request import Request
from reactvl.customize.texts import TextSide
from reactvl.manifest import ReactvlError
from reactvl.models.model import Model
from reactvl.train import loader, views
from reactvl.train.distributed import World
from reactvl.train.frozen import Split
from reactvl.train.order import Order
from reactvl.train.pairs import TrainingPairs
from reactvl.train.step import Batch, mixed


@dataclasses.dataclass
class Feed:
    """What batches are made of. `keep` (M,) are the rows of `pairs` that take part; `order` is of places in `keep`, in global
    batches. `unread` collects pictures that cannot be read."""

    request: Request
    model: Model
    pairs: TrainingPairs
    keep: np.ndarray
    order: Order
    split: Split
    features: views.ViewFeatures | None
    augment: loader.Augmentation
    texts: TextSide
    world: World
    accumulate: int
    device: torch.device
    precision: str
    unread: dict[int, str]

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of the steps start..stop."""
        storage = self.pairs.storage
        if storage is not None:
            storage.follow(self.order, start)  # remote shards, fetched ahead of the steps
        planned = ((step, *self.order.step(step)) for step in range(start, stop))
        return self.of_features(planned) if self.features else self.of_pictures(planned)

    def of_features(self, planned: Iterator[tuple[int, np.ndarray, np.ndarray]]) -> Iterator[Batch]:
        """From kept features: no picture is read, and those that cannot be are left out already."""
        for step, places, epochs in planned:
            part, rows = self.world.part(len(places)), self.keep[places]
            inputs = self.features.take(rows[part], views.view_of(rows, epochs, self.request.views)[part])
            yield Batch(inputs, self.beside(rows, part, None), None, self.order.epoch(step))

    def of_pictures(self, planned: Iterator[tuple[int, np.ndarray, np.ndarray]]) -> Iterator[Batch]:
        """From the shards, in `accumulate` pieces a step, through the frozen lower part."""
        planned, again = itertools.tee(planned)
        plan = (
            [(int(row), int(epoch)) for row, epoch in zip(rows, epochs, strict=True)]
            for _, places, all_epochs in planned
            for rows, epochs in self.pieces(self.keep[places], all_epochs)
        )
        with_workers = loader.batches(
            self.pairs, self.augment, plan, self.request.workers, pin_memory=self.device.type == "cuda"
        )
        for step, places, epochs in again:
            rows, part = self.keep[places], self.world.part(len(places))
            inputs, kept = [], []
            for piece, _ in self.pieces(rows, epochs):
                loaded = next(with_workers)
                pictures, good, bad = loaded
                self.unread.update(bad)
                kept.append(~np.isin(piece, list(bad)))
                if len(good):
                    pictures = pictures.to(self.device, non_blocking=True)
                    pictures = self.augment.on_device(pictures, loaded.epochs, loaded.samples)
                    with torch.no_grad(), mixed(self.device, self.precision):
                        inputs.append(self.split.lower(pictures))
            mask = np.concatenate(kept)
            if mask.sum() < 2 and self.world.size == 1:
                why = next((self.unread[row] for row in rows.tolist() if row in self.unread), "")
                raise ReactvlError(f"a batch has {mask.sum()} readable pictures ({why}); is the pool whole?")
            if not inputs:
                size = self.model.image_size
                with torch.no_grad(), mixed(self.device, self.precision):
                    inputs = [self.split.lower(torch.zeros((1, 3, size, size), device=self.device))[:0]]
            yield Batch(
                torch.cat(inputs) if len(inputs) > 1 else inputs[0],
                self.beside(rows, part, mask),
                torch.from_numpy(mask),
                self.order.epoch(step),
            )

    def pieces(self, rows: np.ndarray, epochs: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """This process's part of a global batch, in pieces."""
        part = self.world.part(len(rows))
        count = min(self.accumulate, part.stop - part.start)
        return list(zip(np.array_split(rows[part], count), np.array_split(epochs[part], count), strict=True))

    def beside(self, rows: np.ndarray, part: slice, mask: np.ndarray | None) -> torch.Tensor:
        """The texts of a global batch as `Batch.texts` wants them."""
        if self.texts.locked:
            return self.texts.take(rows)
        own = rows[part]
        return self.texts.take(own if mask is None else own[mask])
