"""Reads by offset over a bounded cache of open shards, safe in threads and after a fork.

`read_image` is one `pread`; `read_many` sorts its requests by place, joins neighbours into one read and keeps threads
reading ahead, in bounded memory.
"""

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from reactvl.manifest import ReactvlError

MAX_OPEN = 64  # shards kept open per process
GAP = 64 * 1024  # bytes between two requests that are cheaper read than skipped
SPAN = 4 << 20  # bytes of one read, and of one thread's turn
TURN = 128  # requests of one thread's turn
THREADS = 8
SORTED_AT_ONCE = 1_000_000  # requests that are sorted together
OVERHEAD = 256  # bytes that a request takes besides its image
STREAM_BYTES = 64 << 20  # bytes of images that are read ahead where they are wanted in the order of the requests

Request = tuple[Path | str, int, int]  # shard, offset, size


def read_image(shard: Path | str, offset: int, size: int) -> bytes:
    """`size` bytes of a shard from `offset` on; ReactvlError when the file is gone, unreadable or too short."""
    try:
        data = _opened(str(shard)).read(offset, size)
    except OSError as fault:
        raise unreadable(shard, fault) from None
    if len(data) != size:
        raise truncated(shard, offset, size, len(data))
    return data


def read_many(
    requests: Iterable[Request],
    *,
    order: Literal["place", "stream"] = "place",
    threads: int = THREADS,
    gap: int = GAP,
    span: int = SPAN,
) -> Iterator[tuple[int, bytes | ReactvlError]]:
    """Yield (number of the request, its bytes or the fault of reading them) for every request (shard, offset, size).

    `place` yields by shard and offset, a million requests sorted at a time; `stream` yields in the order of the requests,
    sorting those of the next 64 MiB. Requests at most `gap` bytes apart become one read of at most `span` bytes. A
    damaged or missing shard is the fault of its own requests alone.
    """
    numbered = (
        Wanted(number, str(shard), int(offset), int(size)) for number, (shard, offset, size) in enumerate(requests)
    )
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read")
    try:
        if order == "stream":
            yield from _as_asked(pool, numbered, gap, span)
        else:
            yield from _by_place(pool, numbered, gap, span, threads)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Wanted(NamedTuple):
    """One numbered request."""

    number: int
    shard: str
    offset: int
    size: int


Extent = list[Wanted]  # neighbours in one shard, read at once
Answer = tuple[int, bytes | ReactvlError]


def _by_place(
    pool: ThreadPoolExecutor, wanted: Iterator[Wanted], gap: int, span: int, threads: int
) -> Iterator[Answer]:
    waiting: deque[Future] = deque()
    while some := list(islice(wanted, SORTED_AT_ONCE)):
        for turn in turns(extents(some, gap, span), span):
            waiting.append(pool.submit(_read_turn, turn))
            if len(waiting) > 2 * threads:
                yield from waiting.popleft().result()
    while waiting:
        yield from waiting.popleft().result()


def _as_asked(pool: ThreadPoolExecutor, wanted: Iterator[Wanted], gap: int, span: int) -> Iterator[Answer]:
    """One window is read while the one before it is given out."""
    before: list[Future] = []
    for window in windows(wanted):
        reading = [pool.submit(_read_turn, turn) for turn in turns(extents(window, gap, span), span)]
        yield from sorted((answer for future in before for answer in future.result()), key=_number)
        before = reading
    yield from sorted((answer for future in before for answer in future.result()), key=_number)


def _number(answer: Answer) -> int:
    return answer[0]


def windows(wanted: Iterator[Wanted]) -> Iterator[list[Wanted]]:
    """Runs of requests of at most STREAM_BYTES bytes together, or of one request above that."""
    window, held = [], 0
    for one in wanted:
        size = max(one.size, 0) + OVERHEAD
        if window and held + size > STREAM_BYTES:
            yield window
            window, held = [], 0
        window.append(one)
        held += size
    if window:
        yield window


def extents(wanted: list[Wanted], gap: int, span: int) -> Iterator[Extent]:
    """Requests sorted by place, neighbours together; what overlaps counts as often as it is asked for."""
    extent, end, held = [], 0, 0
    for one in sorted(wanted, key=lambda one: one[1:]):
        stop = one.offset + one.size
        joins = extent and one.shard == extent[0].shard and one.offset <= end + gap
        if joins and max(end, stop) - extent[0].offset <= span and held + one.size <= span:
            extent.append(one)
            end, held = max(end, stop), held + one.size
        else:
            if extent:
                yield extent
            extent, end, held = [one], stop, one.size
    if extent:
        yield extent


def turns(several: Iterable[Extent], span: int) -> Iterator[list[Extent]]:
    """Extents that one thread reads at a time: small ones together, so that handing them over costs little."""
    turn, size, count = [], 0, 0
    for extent in several:
        turn.append(extent)
        size, count = size + sum(one.size for one in extent), count + len(extent)
        if size >= span or count >= TURN:
            yield turn
            turn, size, count = [], 0, 0
    if turn:
        yield turn


def _read_turn(turn: list[Extent]) -> list[Answer]:
    return [answer for extent in turn for answer in _read_extent(extent)]


def _read_extent(extent: Extent) -> list[Answer]:
    shard, begin = extent[0].shard, extent[0].offset
    end = max(one.offset + one.size for one in extent)
    if len(extent) > 1:
        try:
            data = memoryview(_opened(shard).read(begin, end - begin))
        except OSError:
            data = None  # one bad block spoils a long read: each request is tried by itself
        if data is not None and len(data) == end - begin and all(one.size >= 0 for one in extent):
            return [(one.number, bytes(data[one.offset - begin : one.offset - begin + one.size])) for one in extent]
    return [(one.number, _attempt(one)) for one in extent]


def _attempt(one: Wanted) -> bytes | ReactvlError:
    try:
        return read_image(one.shard, one.offset, one.size)
    except ReactvlError as fault:
        return fault


def unreadable(shard: Path | str, fault: OSError) -> ReactvlError:
    return ReactvlError(f"shard {shard}: cannot be read ({fault.strerror}); is the pool still where it was?")


def truncated(shard: Path | str, offset: int, size: int, left: int) -> ReactvlError:
    return ReactvlError(f"shard {shard}: is truncated at {offset:,} (expected {size:,} bytes, {left:,} left)")


def forget(shard: Path | str) -> None:
    """Close a shard if it is cached: the next read opens what then lies under its name."""
    with _lock:
        _open.pop(str(shard), None)


def close_all() -> None:
    """Close every cached shard that no thread is reading."""
    with _lock:
        _open.clear()


class _Shard:
    """An open file that closes when the last thread that uses it lets go, evicted from the cache or not."""

    def __init__(self, path: str):
        self.fd = -1
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes; fewer at the end of the file. No memory is asked for that the file cannot fill."""
        pieces, size = [], min(size, max(os.fstat(self.fd).st_size - offset, 0))
        while size > 0:
            piece = os.pread(self.fd, size, offset)
            if not piece:
                break
            pieces.append(piece)
            offset, size = offset + len(piece), size - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def __del__(self, close=os.close):
        if self.fd >= 0:
            close(self.fd)


_open: OrderedDict[str, _Shard] = OrderedDict()
_lock = threading.Lock()


def _opened(path: str) -> _Shard:
    with _lock:
        shard = _open.get(path)
        if shard is None:
            shard = _open[path] = _Shard(path)
            if len(_open) > MAX_OPEN:
                _open.popitem(last=False)
        else:
            _open.move_to_end(path)
        return shard


def _after_fork() -> None:
    """A child must not inherit a lock that another thread of its parent held; `pread` shares no file position."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
