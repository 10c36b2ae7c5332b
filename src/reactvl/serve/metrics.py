"""What the service did, in Prometheus's text format: requests and their seconds, steps, batches, what waits.

Every service has a registry of its own, so that two in one process do not count together.
"""

import time
from collections.abc import Callable, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from reactvl.serve.asking import Answer

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)
MIME = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters of one service; `text()` is what Prometheus reads."""

    def __init__(self, pairs: int = 0):
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        new = {"registry": self.registry}
        self.requests = Counter("reactvl_requests", "requests by route and status", ["route", "status"], **new)
        self.seconds = Histogram("reactvl_request_seconds", "whole requests", ["route"], buckets=SECONDS, **new)
        self.steps = Histogram(
            "reactvl_step_seconds",
            "steps of searches: wait and metadata of each, encode and search of a batch, decode of a picture",
            ["step"],
            buckets=SECONDS,
            **new,
        )
        self.batch = Histogram("reactvl_batch_size", "searches answered together", buckets=SIZES, **new)
        self.refused = Counter("reactvl_searches_refused", "searches that the engine refused or failed on", **new)
        self.busy = Counter("reactvl_busy", "requests turned away because too many waited", **new)
        self.waiting = Gauge("reactvl_waiting", "searches and counts that wait", **new)
        self.open = Gauge("reactvl_open_requests", "requests under way", **new)
        Gauge("reactvl_pairs", "pairs that are served", **new).set(pairs)
        self._children: dict[tuple[str, ...], object] = {}  # looking a label up costs more than counting

    def watch(self, waiting: Callable[[], int]) -> None:
        """Where the number of waiting searches is to be read."""
        self.waiting.set_function(waiting)

    def answered(self, answers: Sequence[object], waits: Sequence[float]) -> None:
        """A batch was answered; waits: seconds that each of its searches waited for it."""
        self.batch.observe(len(answers))
        for wait in waits:
            self._step("wait").observe(wait)
        good = [answer for answer in answers if isinstance(answer, Answer)]
        if len(good) < len(answers):
            self.refused.inc(len(answers) - len(good))
        if good:
            for step in ("encode", "search"):  # they are the whole batch's
                self._step(step).observe(good[0].milliseconds.get(step, 0.0) / 1000)
        for answer in good:
            self._step("metadata").observe(answer.milliseconds.get("metadata", 0.0) / 1000)

    def decoded(self, seconds: float) -> None:
        self._step("decode").observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def _step(self, name: str):
        return self._children.get((name,)) or self._children.setdefault((name,), self.steps.labels(name))

    def ended(self, route: str, status: int, seconds: float) -> None:
        """A request was answered. route: as declared, never as requested, so that no client can make up labels."""
        key = (route, str(status))
        counted = self._children.get(key)
        if counted is None:
            counted = self._children[key] = (self.requests.labels(*key), self.seconds.labels(route))
        counted[0].inc()
        counted[1].observe(seconds)


class Timed:
    """ASGI: counts every request by its route, its status and its seconds."""

    def __init__(self, app, metrics: Metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, began = 500, time.perf_counter()

        async def counted(message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self.metrics.open.inc()
        try:
            await self.app(scope, receive, counted)
        finally:
            self.metrics.open.dec()
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.ended(route, status, time.perf_counter() - began)
