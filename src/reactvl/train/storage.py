"""Shards on remote or network storage, fetched whole into a bounded cache on disk, ahead of the run that reads them.

    FOLDER/3f0c.../00017.tar      a whole shard: written under a temporary name, renamed when its size is right
    FOLDER/3f0c.../.lease         locked (flock) by every process that needs the shard now; the last one deletes it

A training order with windows (`Order(window=...)`) needs W shards at a time. `follow` tells the coming windows: threads
fetch the next one while one is trained on, and a window that has passed is deleted. Processes of one machine share the
folder: each fetches what no other has, and none deletes what another holds. What a killed run leaves is used again, or
deleted, by the next.
"""

import contextlib
import fcntl
import hashlib
import os
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reactvl.manifest import ReactvlError, replacing
from reactvl.pool.reader import forget
from reactvl.pool.tars import Fingerprint
from reactvl.train.pairs import ShardGone

if TYPE_CHECKING:
    from reactvl.train.order import Order

CACHE_BYTES = 64 << 30
THREADS = 8
TRIES = 5
PAUSE = 1.0  # seconds before the second try; doubled from try to try
BLOCK = 8 << 20
LONGEST_WINDOW = 64  # shards


class Storage:
    """Remote shards by number. `hold` makes some present and keeps them, `release` lets them go.

    `urls`: what `add` will be given, asked for size and identity at once. ReactvlError for a URL that is not there or
    whose size is unknown, and for a cache that cannot hold two shards.
    """

    def __init__(self, urls: Sequence[str], folder: Path, *, most: int = CACHE_BYTES, threads: int = THREADS):
        self.folder, self.most = Path(folder), most
        self.folder.mkdir(parents=True, exist_ok=True)
        self._threads = threads
        with ThreadPoolExecutor(4 * threads, thread_name_prefix="ask") as asking:
            self._known = dict(zip(urls, asking.map(identity, urls), strict=True))
        self.urls: dict[int, str] = {}
        self.prints: dict[int, Fingerprint] = {}
        largest = max((known.size for known in self._known.values()), default=0)
        if 2 * largest > most:
            raise ReactvlError(
                f"the cache of {most:,} bytes cannot hold two shards (the largest has {largest:,} bytes)"
            )
        # two windows lie there at a time, the one that is read and the next
        self.window = max(1, min(LONGEST_WINDOW, most // (2 * max(largest, 1))))
        self._leases: dict[int, int] = {}  # shard -> descriptor of its locked lease
        self._held: Counter[int] = Counter()
        self._fetching: dict[int, Future] = {}
        self._wanted: list[int] = []  # shards to come, in order
        self._windows: Iterator[Any] | None = None
        self._now: set[int] = set()  # the window that is read
        self._next: set[int] | None = None
        self._lock = threading.RLock()
        self._pool: ThreadPoolExecutor | None = None
        self._owner = os.getpid()

    def add(self, number: int, url: str) -> Path:
        """Give a URL its number; returns where its file will lie."""
        self.urls[number], self.prints[number] = url, self._known[url]
        return self.path(number)

    def has(self, number: int) -> bool:
        """Whether a shard is remote."""
        return number in self.urls

    def path(self, number: int) -> Path:
        url, known = self.urls[number], self.prints[number]
        home = hashlib.sha256(f"{url} {known.size} {known.ends_sha256}".encode()).hexdigest()[:24]
        return self.folder / home / (url.rstrip("/").rpartition("/")[2].partition("?")[0] or "shard.tar")

    def follow(self, order: "Order", step: int) -> None:
        """Fetch along the windows of `order` from `step` on, the next one ahead; what an earlier run left besides is deleted."""
        with self._lock:
            self._windows = ({int(shard) for shard in shards if self.has(int(shard))} for shards in order.ahead(step))
            self._now, self._next = next(self._windows), None
            self._sweep(self._now)
            self._request(self._now)
            self._look_further()

    def look_ahead(self, shards: Sequence[int]) -> None:
        """Fetch these next, as far as the cache has room."""
        with self._lock:
            self._request(shards)

    def hold(self, shards: Iterable[int]) -> None:
        """Wait until the remote ones of these shards are there, and keep them until `release`.

        A window whose turn is over is let go here. ShardGone when one cannot be fetched.
        """
        wanted = [shard for shard in shards if self.has(shard)]
        with self._lock:
            self._held.update(wanted)
            if self._windows is not None:
                self._turn(set(wanted) - self._now)
            self._request(wanted)
            jobs = [(shard, self._job(shard)) for shard in wanted]
        for shard, job in jobs:
            try:
                job.result()
            except ReactvlError:
                with self._lock:
                    self._fetching.pop(shard, None)  # the next that asks tries again
                    self.release(wanted)
                raise

    def release(self, shards: Iterable[int]) -> None:
        """A shard that nobody holds and no window wants is deleted."""
        with self._lock:
            for shard in shards:
                if self.has(shard):
                    self._held[shard] -= 1
                    self._drop(shard)

    def close(self) -> None:
        """End the threads and let go of every lease; files stay for the next run."""
        with self._lock:
            pool, self._pool = self._pool, None
            self._windows, self._now, self._next = None, set(), None
        if pool is not None and os.getpid() == self._owner:
            pool.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            self._fetching.clear()
            while self._leases:
                let_go(self._leases.popitem()[1])

    def present(self) -> list[int]:
        """The shards whose file is there, whole."""
        return [number for number in self.urls if whole(self.path(number), self.prints[number].size)]

    def _turn(self, beyond: set[int]) -> None:
        """Go on to the windows in which the shards `beyond` this one lie; ReactvlError for what the order does not name."""
        for _ in range(2 * len(self.urls) + 2):
            if not beyond:
                return
            passed, self._now = self._now, self._next if self._next is not None else next(self._windows)
            self._next = None
            for shard in passed:
                self._drop(shard)
            self._request(self._now)
            self._look_further()
            beyond = beyond - self._now
        raise ReactvlError("the plan is not in the order that the storage follows")

    def _look_further(self) -> None:
        self._next = next(self._windows)
        self._request(self._next)

    def _request(self, shards: Iterable[int]) -> None:
        """Ask for shards that are not on their way, as far as they fit in beside what is wanted too."""
        shards = [shard for shard in shards if self.has(shard)]
        keep = {*shards, *self._now, *(self._next or ())}
        for shard in shards:
            if shard not in self._fetching:
                if not self._room(shard, keep):
                    return
                self._job(shard)

    def _room(self, shard: int, keep: set[int]) -> bool:
        """Whether the cache has room for one more; what is there, unheld and not in `keep` is deleted for it."""
        used = self.prints[shard].size + sum(self.prints[one].size for one in self._fetching)
        for other in list(self._fetching):
            if used <= self.most:
                break
            if other not in keep and self._held[other] <= 0 and self._fetching[other].done():
                used -= self.prints[other].size
                self._delete(other)
        return used <= self.most

    def _job(self, shard: int) -> Future:
        """The fetching of a shard. One that is asked for goes beyond the bound when all else is held: a batch needs all of its
        shards."""
        if shard not in self._fetching:
            self._room(shard, self._now)
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="fetch")
            self._fetching[shard] = self._pool.submit(self._fetch, shard)
        return self._fetching[shard]

    def _drop(self, shard: int) -> None:
        """Delete a shard that is neither held nor in the window now or next; without windows it stays until room is needed."""
        if self._held[shard] > 0 or self._windows is None:
            return
        if shard in self._now or (self._next is not None and shard in self._next):
            return
        job = self._fetching.get(shard)
        if job is not None and not job.done() and not job.cancel():
            return  # on its way; `_room` deletes it
        self._delete(shard)

    def _delete(self, shard: int) -> None:
        self._fetching.pop(shard, None)
        lease = self._leases.pop(shard, None)
        if lease is not None:
            remove(self.path(shard), lease)

    def _fetch(self, shard: int) -> None:
        """Take the shard's lease and fetch its file unless it is there; ShardGone when it cannot be had."""
        path, url, known = self.path(shard), self.urls[shard], self.prints[shard]
        path.parent.mkdir(parents=True, exist_ok=True)
        lease = os.open(path.parent / ".lease", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lease, fcntl.LOCK_SH)
            if not whole(path, known.size):
                fcntl.flock(lease, fcntl.LOCK_EX)  # one process fetches; the others find it whole
                if not whole(path, known.size):
                    fetch(url, path, known)
                fcntl.flock(lease, fcntl.LOCK_SH)
        except BaseException:
            let_go(lease)
            raise
        with self._lock:
            self._leases[shard] = lease

    def _sweep(self, wanted: set[int]) -> None:
        """Delete what an earlier run left and nobody holds, but for the shards wanted now."""
        keep = {self.path(shard).parent.name for shard in wanted} | {
            self.path(shard).parent.name for shard in self._fetching
        }
        for home in self.folder.iterdir():
            if home.name not in keep and home.is_dir():
                with contextlib.suppress(OSError):
                    lease = os.open(home / ".lease", os.O_RDWR | os.O_CLOEXEC)
                    for file in [path for path in home.iterdir() if path.name != ".lease"]:
                        remove(file, os.dup(lease))
                    let_go(lease)


def remove(path: Path, lease: int) -> None:
    """Delete a cached file unless another process has its lease, and let ours go. The file is emptied first: workers may
    still have it open, and its room is needed now."""
    try:
        fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        let_go(lease)
        return
    forget(path)
    with contextlib.suppress(FileNotFoundError):
        os.truncate(path, 0)
        path.unlink()
    let_go(lease)


def let_go(lease: int) -> None:
    """Unlock and close: a forked worker that has inherited the descriptor would hold the lock on."""
    fcntl.flock(lease, fcntl.LOCK_UN)
    os.close(lease)


def fetch(url: str, path: Path, known: Fingerprint) -> None:
    """Download a whole file; again after a fault, with growing pauses; ShardGone when it is not there or stays out of reach."""
    fault: Exception | str = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE * 2 ** (attempt - 1) * random.Random(attempt).uniform(0.5, 1.0))
        try:
            system, place = file_system(url)
            with replacing(path) as part:
                with (
                    system.open(place, "rb", block_size=BLOCK, cache_type="readahead") as source,
                    open(part, "wb") as target,
                ):
                    shutil.copyfileobj(source, target, BLOCK)
                size = part.stat().st_size
                if size != known.size:
                    raise EOFError(f"{size:,} of {known.size:,} bytes came")
            return
        except FileNotFoundError:
            raise ShardGone(f"shard {url}: has gone; put it back and start the same command again to go on") from None
        except OSError as error:
            if getattr(error, "errno", None) == 28:  # no space left
                raise ReactvlError(
                    f"{path.parent}: no room left for shards; free some, or give a smaller cache"
                ) from None
            fault = error
        except Exception as error:  # a file system's own errors are of any kind
            fault = error
    now = identity(url, fallback=known)
    if now.size != known.size:
        raise ShardGone(f"shard {url}: has changed under the run ({known.size:,} bytes before, {now.size:,} now)")
    raise ShardGone(
        f"shard {url}: could not be fetched in {TRIES} tries ({type(fault).__name__}: {fault}); start the same command "
        "again to go on"
    )


def whole(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def identity(url: str, fallback: Fingerprint | None = None) -> Fingerprint:
    """What a remote file is known by: its size, and in place of its ends a hash of whatever its store says of it (etag,
    checksum, time)."""
    system, place = file_system(url)
    try:
        about = system.info(place)
    except FileNotFoundError:
        if fallback:
            raise ShardGone(f"shard {url}: has gone; put it back and start the same command again to go on") from None
        raise ReactvlError(f"train_data {url}: does not exist") from None
    except Exception as fault:  # a file system's own errors are of any kind
        if fallback:
            return fallback
        raise ReactvlError(f"train_data {url}: cannot be reached ({type(fault).__name__}: {fault})") from None
    if not about.get("size"):
        raise ReactvlError(f"train_data {url}: its store does not say how long it is, or it is empty")
    told = sorted(f"{name}={about[name]}" for name in MARKS if about.get(name))
    return Fingerprint(int(about["size"]), 0, hashlib.sha256(" ".join(told).encode()).hexdigest())


# what stores say of a file's content, in fsspec's `info`
MARKS = (
    *("ETag", "etag", "md5Hash", "md5", "crc32c", "content_md5"),
    *("LastModified", "last_modified", "mtime", "updated", "created"),
)


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL and the path in it; ReactvlError where its package is missing."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as fault:
        raise ReactvlError(f"train_data {url}: {fault}") from None
    except ValueError as fault:
        raise ReactvlError(f"train_data {url}: {fault}") from None
