"""Which pairs a step sees: a function of (seed, step) alone, so that a checkpoint stores the step and nothing else.

Passes over the pairs are laid end to end and cut into batches. A pass is an exact seeded permutation: every pair once, or,
with `repeats`, each pair its floor or its ceiling of times, in exact total. With a `window` (shards on remote storage) a
pass goes shard by shard: its shards are permuted and cut into windows of W shards, and the pairs of a window are shuffled
exactly, so that only W shards are needed at a time.

At 10 M pairs a pass is an int32 permutation of 40 MB, made in 1.5 s on one core; with a window 0.4 GB and 1 s while it is made,
with repeats of 1.5 0.7 GB and 6 s (15 M places). A step within the pass is a slice of it.
"""

import math
from collections.abc import Iterator

import numpy as np

from reactvl.manifest import ReactvlError


class Order:
    """The endless order of `pairs` pairs in global batches of `batch`.

    `per_epoch`: samples that count as an epoch (open_clip's --train-num-samples); default the length of a pass.
    `repeats` (pairs,) float64: how often a pair stands in a pass on average. `shards` (pairs,): the shard of each pair,
    which `window`, a number of shards, needs. ReactvlError for repeats that are negative or leave nothing.
    """

    def __init__(
        self,
        pairs: int,
        batch: int,
        seed: int,
        *,
        per_epoch: float | None = None,
        repeats: np.ndarray | None = None,
        shards: np.ndarray | None = None,
        window: int | None = None,
    ):
        if repeats is not None:
            repeats = np.asarray(repeats, np.float64)
            if len(repeats) != pairs or not np.isfinite(repeats).all() or (repeats < 0).any() or repeats.sum() < 1:
                raise ReactvlError("repeats: one number of at least 0 for each pair, and at least one pair a pass")
        if window is not None and (window < 1 or shards is None or len(shards) != pairs):
            raise ReactvlError(f"window = {window}: at least one shard, and the shard of each pair")
        self.pairs, self.batch, self.seed = pairs, batch, seed
        self.repeats, self.shards, self.window = repeats, shards, window
        self.length = float(pairs if repeats is None else repeats.sum())  # of a pass, on average
        self.most = 1 if repeats is None else max(math.ceil(repeats.max()), 1)  # of one pair in one pass
        self.per_epoch = per_epoch or self.length
        self._pass, self._slots, self._views = -1, np.empty(0, np.int32), None

    def step(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows (batch,) int64 of the global batch and the view (batch,) int64 of each, which seeds its augmentation.

        The view is the number of the pass; where pairs repeat within a pass, every time that a pair is shown is a view of
        its own. How far training is in epochs is `epoch(step)`.
        """
        places = np.arange(step * self.batch, (step + 1) * self.batch)
        passes = self.passes(places)
        rows, views = np.empty(self.batch, np.int64), np.empty(self.batch, np.int64)
        for number in np.unique(passes).tolist():
            here = passes == number
            at = places[here] - self.start(number)
            rows[here] = self.permutation(number)[at]
            views[here] = number if self._views is None else number * self.most + self._views[at]
        return rows, views

    def epoch(self, step: int) -> float:
        """Epochs of `per_epoch` samples that lie before a step."""
        return step * self.batch / self.per_epoch

    def permutation(self, number: int) -> np.ndarray:
        """The rows of pass `number` in their order, int32 (int64 above 2^31 pairs)."""
        if number != self._pass:
            if self.repeats is None and self.window is None:
                rows, views = self._generator(number).permutation(self._arange(self.pairs)), None
            else:
                rows, views = self._shuffled(number)
            self._pass, self._slots, self._views = number, rows, views
        return self._slots

    def start(self, number: int) -> int:
        """Where pass `number` begins: passes are the floor or the ceiling of `length` long, exact in total."""
        return number * self.pairs if self.repeats is None else math.floor(number * self.length)

    def passes(self, places: np.ndarray) -> np.ndarray:
        """The pass (n,) int64 of each place of the endless order."""
        if self.repeats is None:
            return places // self.pairs
        first, last = (max(int(place / self.length) - 1, 0) for place in (places[0], places[-1]))
        starts = np.array([self.start(number) for number in range(first, last + 4)])
        return first + np.searchsorted(starts, places, side="right") - 1

    def windows(self, number: int) -> list[np.ndarray]:
        """The shards of each window of pass `number`, in the order of the pass; ReactvlError without `window`."""
        if self.window is None:
            raise ReactvlError("this order has no windows of shards")
        shards = self._generator(number, 1).permutation(np.unique(self.shards))
        return [shards[at : at + self.window] for at in range(0, len(shards), self.window)]

    def ahead(self, step: int) -> Iterator[np.ndarray]:
        """The windows that a run from `step` on needs, endlessly: arrays of shards."""
        place = np.array([step * self.batch])
        number = int(self.passes(place)[0])
        rows, skipped = self.permutation(number), int(place[0]) - self.start(number)
        shard = self.shards[rows[skipped]]
        found = False
        for shards in self.windows(number):
            found = found or shard in shards
            if found:
                yield shards
        while True:
            number += 1
            yield from self.windows(number)

    def counts(self, number: int) -> np.ndarray:
        """How often each pair stands in pass `number`, (pairs,) int64: floor or ceiling of `repeats`, exact in total.

        The fractions are sampled systematically along a seeded permutation, so that a pair's chance is its fraction.
        """
        if self.repeats is None:
            return np.ones(self.pairs, np.int64)
        whole = np.floor(self.repeats).astype(np.int64)
        fraction = self.repeats - whole
        wanted = self.start(number + 1) - self.start(number) - int(whole.sum())
        draw = self._generator(number, 2)
        order = draw.permutation(np.flatnonzero(fraction))
        if not len(order):
            return whole
        sums = np.cumsum(fraction[order])
        # of the offsets u in [0, 1), those that make floor(total + u) the number wanted
        low, high = max(wanted - sums[-1], 0.0), min(wanted + 1 - sums[-1], 1.0)
        marks = np.floor(sums + draw.uniform(low, max(high, low))).astype(np.int64)
        taken = np.diff(marks, prepend=0).clip(0, 1).astype(bool)
        excess = int(taken.sum()) - wanted  # rounding of the sum may be off by one at its end
        if excess > 0:
            taken[np.flatnonzero(taken)[:excess]] = False
        elif excess < 0:
            taken[np.flatnonzero(~taken)[:-excess]] = True
        whole[order[taken]] += 1
        return whole

    def _shuffled(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Rows of a pass with repeats or windows, and which showing of its pair within the pass each is."""
        if self.repeats is None:
            slots, showing = self._arange(self.pairs), None
        else:
            counts = self.counts(number)
            slots = np.repeat(self._arange(self.pairs), counts)
            showing = (np.arange(len(slots)) - np.repeat(np.cumsum(counts) - counts, counts)).astype(np.int32)
        order = self._arange(len(slots))
        if self.window is None:
            self._generator(number).shuffle(order)
        else:
            shard = np.asarray(self.shards)[slots]
            by_shard = np.argsort(shard, kind="stable")
            bounds = np.searchsorted(shard[by_shard], np.arange(int(np.max(self.shards)) + 2))
            draw, at = self._generator(number), 0
            for shards in self.windows(number):
                block = np.concatenate([by_shard[bounds[one] : bounds[one + 1]] for one in shards])
                order[at : at + len(block)] = draw.permutation(block)
                at += len(block)
        return slots[order], None if showing is None else showing[order]

    def _generator(self, number: int, stream: int = 0) -> np.random.Generator:
        """Counter-based: stream 0 shuffles, 1 permutes shards, 2 draws fractions of repeats."""
        return np.random.Generator(np.random.Philox(key=[self.seed, number], counter=[0, 0, 0, stream]))

    @staticmethod
    def _arange(count: int) -> np.ndarray:
        return np.arange(count, dtype=np.int32 if count < 2**31 else np.int64)
