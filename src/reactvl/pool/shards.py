"""The shards of a pool as a stage knows them: their fingerprints, short names, identity, and where they lie later."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from reactvl.manifest import InputId, ReactvlError, path_beside, sha256_json
from reactvl.pool.reader import forget
from reactvl.pool.tars import Fingerprint, fingerprint, same_shard

UNREADABLE = Fingerprint(0, 0, "")
READERS = 16


def identify(paths: Sequence[Path]) -> dict[Path, Fingerprint]:
    """The fingerprint of every shard; UNREADABLE for one that cannot be read, which is listed when its turn comes."""

    def one(path: Path) -> Fingerprint:
        try:
            return fingerprint(path)
        except OSError:
            return UNREADABLE

    with ThreadPoolExecutor(READERS, thread_name_prefix="identify") as readers:
        return dict(zip(paths, readers.map(one, paths), strict=True))


def still_there(path: Path, known: Fingerprint) -> bool:
    """Whether a shard is the file that the run began with; a pool may vanish under a long run."""
    try:
        return same_shard(path, known)
    except OSError:
        return False


def shard_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Short names: the file's, with as many of its folders as tell it from the others of that name."""
    names = {path: path.name for path in paths}
    depth = 1
    while clashing := {name for name, count in Counter(names.values()).items() if count > 1}:
        depth += 1
        names |= {path: "/".join(path.resolve().parts[-depth:]) for path, name in names.items() if name in clashing}
    return names


def pool_id(shards: dict[Path, Fingerprint], out: Path) -> InputId:
    """The pool's identity: its shards' names, sizes and ends. Modification times are left out: a copy is the same pool."""
    home = Path(os.path.commonpath([path.resolve().parent for path in shards]))
    names = shard_names(list(shards))
    content = [[names[path], print_.size, print_.ends_sha256] for path, print_ in shards.items()]
    return InputId(path=path_beside(home, out), sha256=sha256_json(content))


def shard_row(name: str, path: Path, print_: Fingerprint, out: Path, **place: int) -> dict[str, Any]:
    """A row of `shards.parquet`; `place` is its part, first_row and rows."""
    return {"shard": name, "path": path_beside(path, out), **print_._asdict(), **place}


class KnownShards:
    """Where the shards of a finished folder lie now: each is checked against its fingerprint when first asked for."""

    def __init__(self, folder: Path, rows: Iterable[dict[str, Any]], remedy: str):
        """`rows` of `shards.parquet`; `remedy` ends the error about a shard that changed."""
        self.folder, self.remedy = folder, remedy
        self._rows = {row["shard"]: row for row in rows}
        self._found: dict[str, Path] = {}

    def path(self, name: str) -> Path:
        """ReactvlError when the shard is gone or is no longer the file that was read, so that no stale offset is used."""
        if name not in self._found:
            self._found[name] = self._checked(name)
        return self._found[name]

    def check(self) -> None:
        """Check every shard, so that a stage that will read images stops before it begins."""
        for name in self._rows:
            self.path(name)

    def _checked(self, name: str) -> Path:
        row = self._rows.get(name)
        if row is None:
            raise ReactvlError(f"{self.folder}: knows no shard {name!r}")
        path = Path(row["path"])
        path = path if path.is_absolute() else (self.folder.resolve() / path).resolve()
        forget(path)
        try:
            same = same_shard(path, Fingerprint(row["size"], row["mtime_ns"], row["ends_sha256"]))
        except OSError as fault:
            raise ReactvlError(
                f"shard {path}: {fault.strerror}; put the pool back where it was, or {self.remedy}"
            ) from None
        if not same:
            raise ReactvlError(f"shard {path}: has changed since it was read; {self.remedy}")
        return path
