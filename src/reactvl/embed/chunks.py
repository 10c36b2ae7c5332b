"""Chunks: several processes, each with its share of the shards, into one folder.

A chunk holds a lock of its own while it embeds; the folder's lock it takes only to begin and to end. Locks are taken,
and looked at, under the folder's lock, so that no chunk can begin while another process makes the folder whole.
"""

import contextlib
import fcntl
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from reactvl.manifest import ReactvlError

Item = TypeVar("Item")
WAIT = 30.0  # seconds for the folder's lock, which chunks that begin or end hold for moments


class Chunk(NamedTuple):
    """The share `number` (from 1) of `count`."""

    number: int
    count: int

    @property
    def whole(self) -> bool:
        return self.count == 1

    def of(self, items: Sequence[Item]) -> list[Item]:
        """Every item is in exactly one of the `count` chunks; a chunk may be empty."""
        return list(items[self.number - 1 :: self.count])

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def parse(text: str) -> Chunk:
    """The chunk of `3/8`; ReactvlError for another spelling and for a number outside 1 to N."""
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ReactvlError(f"chunk {text!r}: write I/N, as in 3/8, with I from 1 to N")
    return Chunk(int(match[1]), int(match[2]))


@contextlib.contextmanager
def claimed(out: Path, chunk: Chunk, request: str) -> Iterator[None]:
    """Hold the chunk's lock; ReactvlError when another process does. To be entered under the folder's lock.

    `request` is the digest of what was asked for.
    """
    path = home(out) / f"{request[:16]}-{chunk.number}-of-{chunk.count}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as lock:
        if not taken(lock, fcntl.LOCK_EX):
            raise ReactvlError(f"{out}: chunk {chunk} is being embedded by another process; wait for it")
        yield


def running(out: Path, but: str = "") -> list[str]:
    """The chunks, as `3/8`, that other processes are embedding into this folder now, but those of request `but`.

    A look takes a lock for a moment: chunks of one's own request are looked at under the folder's lock alone.
    """
    found = []
    for path in sorted(home(out).glob("*.lock")):
        request, number, _, count = path.stem.split("-")
        if but and request == but[:16]:
            continue
        with open(path) as lock:
            if not taken(lock, fcntl.LOCK_SH):
                found.append(f"{number}/{count}")
    return found


def refuse_others(out: Path, but: str = "") -> None:
    """ReactvlError when other processes are embedding chunks into this folder, but those of request `but`."""
    if others := running(out, but):
        raise ReactvlError(
            f"{out}: chunk {', '.join(others)} is being embedded by another process"
            f"{' with other options' if but else ''}; wait for it or choose another --out"
        )


def home(out: Path) -> Path:
    return out / ".work" / "chunks"


def taken(lock, how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
