"""Where every picture lies, as worker processes see it: numpy arrays and no Python object a pair.

A forked worker shares the arrays as they are. A spawned one gets their file: pickling writes the arrays once into a temporary
folder, deleted with the table, and sends its path, so that what is pickled is of the same few bytes for any number of pairs.
"""

import os
import shutil
import tempfile
import weakref
from pathlib import Path

import numpy as np

from reactvl.pool.tars import Fingerprint, fingerprint
from reactvl.train.pairs import ShardGone, TrainingPairs

PAIRS = {"shard": np.int32, "offset": np.int64, "size": np.int64, "seed": np.uint64}  # (N,)
SHARDS = {"name": np.uint8, "end": np.int64, "bytes": np.int64, "mtime": np.int64, "ends": np.uint8}


class Table:
    """`shard`, `offset`, `size`, `seed` (N,) of the pairs; of each shard its path and, where `known`, what it was like."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays = arrays
        self.shard, self.offset, self.size, self.seed = (arrays[name] for name in PAIRS)
        self._folder: str | None = None
        self._touched: dict[int, int] = {}  # shards whose new time was found to be a mere touch

    @classmethod
    def of(cls, pairs: TrainingPairs) -> "Table":
        """ShardGone for a shard that is not there now (a remote one, which is fetched when it is needed, excepted)."""
        names = [os.fsencode(path) for path in pairs.shards]
        if pairs.storage is not None:
            prints = [Fingerprint(-1, 0, "")] * len(names)  # what is fetched is checked when it is fetched
        else:
            prints = pairs.prints or [stat_of(path) for path in pairs.shards]
        ends = [bytes.fromhex(known.ends_sha256 or "00" * 32) for known in prints]
        values = (pairs.shard, pairs.offset, pairs.size, pairs.samples())
        return cls(
            {name: np.asarray(value, kind) for (name, kind), value in zip(PAIRS.items(), values, strict=True)}
            | {
                "name": np.frombuffer(b"".join(names), np.uint8),
                "end": np.cumsum([len(name) for name in names]),
                "bytes": np.array([known.size for known in prints], np.int64),
                "mtime": np.array([known.mtime_ns for known in prints], np.int64),
                "ends": np.frombuffer(b"".join(ends), np.uint8).reshape(-1, 32),
            }
        )

    def path(self, shard: int) -> str:
        end = self.arrays["end"]
        return os.fsdecode(self.arrays["name"][end[shard - 1] if shard else 0 : end[shard]].tobytes())

    def check(self, shard: int) -> None:
        """ShardGone when a shard is no longer the file that the offsets are of: one `stat`, and a hash where it was touched."""
        path, size = self.path(shard), int(self.arrays["bytes"][shard])
        try:
            now = os.stat(path)  # noqa: PTH116 - once a shard and batch
        except OSError as fault:
            raise gone(path, fault) from None
        if size < 0:
            return
        if now.st_size != size:
            raise ShardGone(f"shard {path}: has changed under the run ({size:,} bytes before, {now.st_size:,} now)")
        if now.st_mtime_ns in (int(self.arrays["mtime"][shard]), self._touched.get(shard)):
            return
        ends = self.arrays["ends"][shard].tobytes()
        try:
            same = any(ends) and fingerprint(path).ends_sha256 == ends.hex()
        except OSError as fault:
            raise gone(path, fault) from None
        if not same:
            raise ShardGone(f"shard {path}: has changed under the run (written again, {size:,} bytes as before)")
        self._touched[shard] = now.st_mtime_ns

    def __reduce__(self):
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix="reactvl-table-")
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            for name, array in self.arrays.items():
                np.save(Path(self._folder) / f"{name}.npy", array)
        return mapped, (self._folder,)


def mapped(folder: str) -> Table:
    """The table of a folder that `Table.__reduce__` wrote, memory-mapped."""
    return Table({name: np.load(Path(folder) / f"{name}.npy", mmap_mode="r") for name in (*PAIRS, *SHARDS)})


def stat_of(path: Path) -> Fingerprint:
    """A shard as it lies there now, without its ends."""
    try:
        about = path.stat()
    except OSError as fault:
        raise gone(path, fault) from None
    return Fingerprint(about.st_size, about.st_mtime_ns, "")


def gone(path: Path | str, fault: OSError) -> ShardGone:
    return ShardGone(
        f"shard {path}: has gone ({fault.strerror}); put it back and start the same command again to go on"
    )
