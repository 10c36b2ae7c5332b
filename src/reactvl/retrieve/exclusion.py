"""Rows that must not be retrieved, named by their owners: evaluation images, opted-out pictures, recalled shards."""

from pathlib import Path

import numpy as np

from reactvl.manifest import ReactvlError


class Exclusion:
    """What to leave out: `shards/keys` and hex SHA-256 sums of images."""

    def __init__(self, names: frozenset[str] = frozenset(), sums: frozenset[bytes] = frozenset()):
        self.names, self.sums = names, sums

    def __len__(self) -> int:
        return len(self.names) + len(self.sums)

    def mask(self, shards: list[str], keys: list[str], sums: list[bytes | None]) -> np.ndarray:
        """bool (n,): which of these rows are left out."""
        if not len(self):
            return np.zeros(len(keys), dtype=bool)
        rows = zip(shards, keys, sums, strict=True)
        return np.array(
            [f"{shard}/{key}" in self.names or image in self.sums for shard, key, image in rows], dtype=bool
        )


def read_exclusion(path: Path | str | None) -> Exclusion:
    """Read a text file: each line a SHA-256 in hex or `shard/key` (`00017.tar/000170042`); blank lines are passed over.

    Raises ReactvlError for a missing file and a line that is neither.
    """
    if path is None:
        return Exclusion()
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as fault:
        raise ReactvlError(f"{path}: the list of what to exclude cannot be read ({fault})") from None
    names, sums = set(), set()
    for number, line in enumerate(map(str.strip, lines), 1):
        if len(line) == 64 and set(line.lower()) <= set("0123456789abcdef"):
            sums.add(bytes.fromhex(line))
        elif "/" in line.strip("/"):
            names.add(line)
        elif line:
            raise ReactvlError(f"{path}, line {number}: '{line}' is neither a SHA-256 in hex nor shard/key")
    return Exclusion(frozenset(names), frozenset(sums))
