"""What workers say of their shards, as a progress bar over the shards' bytes with pairs a second and the share of
waiting."""

import time
from pathlib import Path
from typing import NamedTuple

from reactvl.progress import Progress

MEGABYTE = 1_000_000


class Step(NamedTuple):
    """How far a worker is with a shard: `done` of its `rows` samples, after `seconds`, of which the model waited
    `waiting` for decoded images. `ended`: its result is written."""

    shard: Path
    done: int
    rows: int
    seconds: float
    waiting: float
    ended: bool = False


class Watch:
    """Shows steps on a progress bar; `sizes` are the shards' bytes."""

    def __init__(self, bar: Progress, sizes: dict[Path, int]):
        self.bar, self.sizes, self.began = bar, sizes, time.monotonic()
        self.bytes = self.rows = 0  # of shards that have ended in this run
        self.skipped = 0
        self.seconds = self.waiting = 0.0
        self.under_way: dict[Path, Step] = {}

    def skip(self, size: int) -> None:
        """`size` bytes were done by an earlier run."""
        self.skipped += size
        self.bar.advance(self.skipped // MEGABYTE, resumed=True)

    def step(self, step: Step) -> None:
        self.under_way[step.shard] = step
        if step.ended:
            del self.under_way[step.shard]
            self.bytes += self.sizes[step.shard]
            self.rows += step.done
            self.seconds += step.seconds
            self.waiting += step.waiting
        running = self.under_way.values()
        size = self.bytes + sum(self.sizes[one.shard] * one.done // max(one.rows, 1) for one in running)
        note = f"{self.pairs():,} pairs, {self.rate():,.0f} pairs/s, {self.waiting_share():.0%} waiting for data"
        self.bar.advance((self.skipped + size) // MEGABYTE - self.bar.done, note)

    def pairs(self) -> int:
        return self.rows + sum(step.done for step in self.under_way.values())

    def rate(self) -> float:
        return self.pairs() / max(time.monotonic() - self.began, 1e-9)

    def waiting_share(self) -> float:
        running = self.under_way.values()
        waiting = self.waiting + sum(step.waiting for step in running)
        return waiting / max(self.seconds + sum(step.seconds for step in running), 1e-9)
