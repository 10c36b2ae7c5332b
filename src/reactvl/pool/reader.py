"""Reads by offset: one `pread` an image, over a bounded cache of open shards, safe in threads and after a fork."""

import os
import threading
from collections import OrderedDict
from pathlib import Path

from reactvl.manifest import ReactvlError

MAX_OPEN = 64  # shards kept open per process


def read_image(shard: Path | str, offset: int, size: int) -> bytes:
    """`size` bytes of a shard from `offset` on; ReactvlError when the file is gone, unreadable or too short."""
    try:
        data = _opened(str(shard)).read(offset, size)
    except OSError as fault:
        raise ReactvlError(
            f"shard {shard}: cannot be read ({fault.strerror}); is the pool still where it was?"
        ) from None
    if len(data) != size:
        raise ReactvlError(f"shard {shard}: is truncated at {offset:,} (expected {size:,} bytes, {len(data):,} left)")
    return data


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
        pieces = []
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
