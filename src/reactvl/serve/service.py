"""The service without its routes: requests are bounded, pictures decoded aside, searches batched, faults said."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from reactvl.manifest import ReactvlError
from reactvl.serve import schemas, wire
from reactvl.serve.asking import Answer, Ask, Term
from reactvl.serve.batching import Batcher, Busy
from reactvl.serve.lean import Refused
from reactvl.serve.metrics import Metrics

if TYPE_CHECKING:
    from reactvl.serve.explorer import Explorer

Value = TypeVar("Value")
DECODERS, READERS = 2, 4  # threads that decode uploads, and that read pictures and metadata
DECODING, READING = 64, 512  # jobs of each that may wait
MAX_PICTURES = 32  # uploaded in one request
MAX_BATCH_K = 100  # times max_k, over all searches of a batch


@dataclass(frozen=True)
class Limits:
    """Bounds of a request. upload: bytes of its body, which has `seconds` to arrive; pixels: of an uploaded picture."""

    k: int = 1000
    upload: int = 20_000_000
    pixels: int = 50_000_000
    seconds: float = 30.0


class Service:
    """Answers the API's requests over an explorer. Every method raises `Refused` for what it does not answer."""

    def __init__(self, explorer: "Explorer", limits: Limits | None = None):
        self.explorer, self.limits = explorer, limits or Limits()
        self.info = explorer.info()
        self.metrics = Metrics(self.info["pairs"])
        self.batcher = Batcher(explorer, self.metrics)
        self.metrics.watch(lambda: len(self.batcher))
        self._decoders, self._readers = _Threads(DECODERS, DECODING, "decode"), _Threads(READERS, READING, "read")

    def close(self, timeout: float = 2.0) -> bool:
        """Turn away what waits; whether the work under way ended in time."""
        self._decoders.close()
        self._readers.close()
        return self.batcher.close(timeout)

    async def search(self, search: schemas.Search) -> dict[str, Any]:
        """`schemas.Found`."""
        require_pictures_within([search])
        return wire.found(await self.answer(await wire.asked(search, self.decoded, self.limits.k)))

    async def search_terms(self, terms: tuple[Term, ...], choices: schemas.Choices) -> dict[str, Any]:
        """The same for terms that are there already."""
        return wire.found(await self.answer(wire.chosen(terms, choices, self.limits.k)))

    async def batch(self, batch: schemas.Batch) -> dict[str, Any]:
        """`schemas.BatchFound`: a search that cannot be answered, or whose picture is broken, harms no other."""
        wanted = sum(search.k for search in batch.searches)
        if wanted > MAX_BATCH_K * self.limits.k:
            raise Refused(422, f"searches: ask for {wanted:,} hits together, above {MAX_BATCH_K * self.limits.k:,}")
        require_pictures_within(batch.searches)
        made = await asyncio.gather(
            *(
                wire.asked(search, self.decoded, self.limits.k, f"searches.{number}.query")
                for number, search in enumerate(batch.searches)
            ),
            return_exceptions=True,
        )
        for ask in made:
            if isinstance(ask, BaseException) and not isinstance(ask, Refused):
                raise ask
        asks = [ask for ask in made if isinstance(ask, Ask)]
        answers = iter(await self._waited(self.batcher.answer(asks)) if asks else ())
        return {
            "answers": [
                wire.found_or_detail(next(answers)) if isinstance(ask, Ask) else {"detail": ask.detail} for ask in made
            ]
        }

    async def count(self, count: schemas.Count) -> dict[str, Any]:
        """`schemas.Counted`."""
        require_pictures_within([count])
        ask = await wire.asked(count, self.decoded, self.limits.k)
        counted = await self._waited(self.batcher.count(ask, count.thresholds))
        if isinstance(counted, Exception):
            raise self._refused(counted)
        return wire.counted(counted)

    async def answer(self, ask: Ask) -> Answer:
        """The engine's answer to one search."""
        [answer] = await self._waited(self.batcher.answer((ask,)))
        if not isinstance(answer, Answer):
            raise self._refused(answer)
        return answer

    async def decoded(self, picture: str | bytes, place: str) -> Any:
        """The pixels of an uploaded picture, base64 or bytes; Refused with 422 for what is none."""

        def decode():
            began = time.perf_counter()
            data = wire.from_base64(picture, place) if isinstance(picture, str) else picture
            pixels = self.explorer.pixels(data, self.limits.pixels)
            self.metrics.decoded(time.perf_counter() - began)
            return pixels

        try:
            return await self._waited(self._decoders.run(decode))
        except ReactvlError as fault:
            raise Refused(422, f"{place}: {fault}") from None

    async def read(self, function: Callable[..., Value], *args: Any, status: int = 404) -> Value:
        """What the explorer's `function` returns, from a thread; Refused with `status` and its fault."""
        try:
            return await self._waited(self._readers.run(function, *args))
        except ReactvlError as fault:
            raise Refused(status, str(fault)) from None

    async def _waited(self, work):
        try:
            return await work
        except Busy:
            self.metrics.busy.inc()
            raise Refused(503, "too many requests wait already; ask again in a second", {"retry-after": "1"}) from None

    def _refused(self, fault: Exception) -> Refused:
        return Refused(422 if isinstance(fault, ReactvlError) else 500, wire.why(fault))


def require_pictures_within(searches: list[schemas.Search]) -> None:
    """Refused for more uploaded pictures than one request may bring: a small file can be long to decode."""
    pictures = sum(term.image is not None for search in searches for term in search.query)
    if pictures > MAX_PICTURES:
        raise Refused(422, f"the request has {pictures:,} pictures; {MAX_PICTURES} are the limit")


class _Threads:
    """A few threads, and a bound on what waits for them."""

    def __init__(self, threads: int, waiting: int, name: str):
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"reactvl-{name}")
        self._open, self._most = 0, waiting + threads

    async def run(self, function: Callable[..., Value], *args: Any) -> Value:
        if self._open >= self._most:
            raise Busy
        self._open += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)
        except RuntimeError as fault:
            if "shutdown" in str(fault):
                raise Busy from None
            raise
        finally:
            self._open -= 1

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
