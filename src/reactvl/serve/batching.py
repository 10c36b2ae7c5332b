"""Requests that wait are answered together: one thread takes all that is there, and nobody waits for a batch to fill.

While the model and the search work on one batch the next one gathers by itself, so an idle service answers at once and a
busy one in large batches. Counts run in the same thread, one between two batches, so that they never starve searches.
"""

import asyncio
import contextlib
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from reactvl.manifest import ReactvlError
from reactvl.serve.asking import Answer, Ask, Counted

if TYPE_CHECKING:
    from reactvl.serve.metrics import Metrics

MOST = 64  # searches of one batch
WAITING, COUNTS = 1024, 32  # searches and counts that may wait


class Busy(Exception):
    """More waits already than may."""


class Broken(Exception):
    """The engine failed on a request; its traceback went to standard error."""


class Engine(Protocol):
    def answer(self, asks: Sequence[Ask]) -> list[Answer | ReactvlError]: ...

    def count(self, ask: Ask, thresholds: Sequence[float]) -> Counted: ...


class Batcher:
    """Answers through `engine` in a thread of its own, from any event loop. `close` ends it."""

    def __init__(self, engine: Engine, metrics: "Metrics | None" = None, *, most: int = MOST, waiting: int = WAITING):
        self.engine, self.metrics, self.most, self.waiting = engine, metrics, most, waiting
        self._searches: deque[tuple[_Group, int]] = deque()
        self._counts: deque[tuple[_Group, Sequence[float]]] = deque()
        self._work, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="reactvl-search", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """What waits."""
        return len(self._searches) + len(self._counts)

    async def answer(self, asks: Sequence[Ask]) -> list[Answer | ReactvlError | Broken]:
        """An answer, or why there is none, for each; Busy when too many wait. One group larger than the limit is taken
        by an idle service."""
        group = _Group(asks)
        with self._work:
            if self._closed or (self._searches and len(self._searches) + len(asks) > self.waiting):
                raise Busy
            self._searches.extend((group, place) for place in range(len(asks)))
            self._work.notify()
        return await group.results()

    async def count(self, ask: Ask, thresholds: Sequence[float]) -> Counted | ReactvlError | Broken:
        """`Explorer.count` in its turn; Busy when too many wait. Cancelling the task drops it if it has not begun."""
        group = _Group([ask])
        with self._work:
            if self._closed or len(self._counts) >= COUNTS:
                raise Busy
            self._counts.append((group, thresholds))
            self._work.notify()
        return (await group.results())[0]

    def close(self, timeout: float = 2.0) -> bool:
        """Take nothing more and end what waits; whether the thread ended in time."""
        with self._work:
            self._closed = True
            dropped = {group for group, _ in (*self._searches, *self._counts)}
            self._searches.clear()
            self._counts.clear()
            self._work.notify()
        for group in dropped:
            group.fail(Busy())
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._work:
                while not (self._searches or self._counts or self._closed):
                    self._work.wait()
                if self._closed:
                    return
                batch = [self._searches.popleft() for _ in range(min(self.most, len(self._searches)))]
                counted = self._counts.popleft() if self._counts else None
            batch = [(group, place) for group, place in batch if not group.dropped]
            if batch:
                self._answer(batch)
            if counted and not counted[0].dropped:
                self._count(*counted)

    def _answer(self, batch: "list[tuple[_Group, int]]") -> None:
        began = time.perf_counter()
        answers = self._answers([group.asks[place] for group, place in batch])
        if self.metrics is not None:
            self.metrics.answered(answers, [began - group.since for group, _ in batch])
        for (group, place), answer in zip(batch, answers, strict=True):
            group.put(place, answer)
        for group in {group for group, _ in batch}:
            group.deliver()

    def _answers(self, asks: list[Ask]) -> list[Answer | ReactvlError | Broken]:
        try:
            return self.engine.answer(asks)
        except Exception:  # a fault of ours: whatever it is, it must harm only the request that meets it
            if len(asks) == 1:
                traceback.print_exc()
                return [Broken()]
            return [answer for ask in asks for answer in self._answers([ask])]

    def _count(self, group: "_Group", thresholds: Sequence[float]) -> None:
        try:
            group.put(0, self.engine.count(group.asks[0], thresholds))
        except ReactvlError as fault:
            group.put(0, fault)
        except Exception:
            traceback.print_exc()
            group.put(0, Broken())
        group.deliver()


class _Group:
    """The searches of one request: its task waits until all have their answers."""

    def __init__(self, asks: Sequence[Ask]):
        self.asks, self.since, self.dropped = asks, time.perf_counter(), False
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future = self._loop.create_future()
        self._answers: list = [None] * len(asks)
        self._missing = len(asks)

    async def results(self) -> list:
        try:
            return await self._future
        except asyncio.CancelledError:
            self.dropped = True
            raise

    def put(self, place: int, answer: object) -> None:
        self._answers[place] = answer
        self._missing -= 1

    def deliver(self) -> None:
        """Hand the answers over, if all are there."""
        if not self._missing:
            self._tell(lambda: self._future.done() or self._future.set_result(self._answers))

    def fail(self, fault: Exception) -> None:
        self._tell(lambda: self._future.done() or self._future.set_exception(fault))

    def _tell(self, what: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile, and with it whoever waited
            self._loop.call_soon_threadsafe(what)
