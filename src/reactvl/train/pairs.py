"""The pairs that training reads: arrays and Arrow columns; images stay in their shards and are read by offset.

At 10 M pairs: 24 bytes of arrays a pair (240 MB) and the captions and keys as Arrow text, in the main process alone. Worker
processes get the arrays, shared (`train/table.py`).
"""

import dataclasses
import functools
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from reactvl.manifest import ReactvlError
from reactvl.pool.tars import Fingerprint
from reactvl.train.vectors import Vectors

if TYPE_CHECKING:
    from reactvl.train.storage import Storage

CHUNK = 1 << 16  # texts that are Python strings at a time


class ShardGone(ReactvlError):
    """A shard that disappeared or changed under a run; the run's state can be saved, and the run goes on when it is back."""


class Texts(Sequence):
    """A column of texts as Arrow holds them: a sequence of str; `texts[rows]` of an array of rows is a column again."""

    def __init__(self, texts: "Texts | pa.Array | pa.ChunkedArray | Iterable[str]"):
        if isinstance(texts, Texts):
            column = texts.column
        elif isinstance(texts, pa.Array):
            column = pa.chunked_array([texts])
        elif isinstance(texts, pa.ChunkedArray):
            column = texts
        else:
            column = pa.chunked_array([pa.array(texts, pa.large_string())])
        self.column = column.cast(pa.large_string())

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, at):
        if isinstance(at, slice | np.ndarray | list):
            rows = np.arange(len(self))[at] if isinstance(at, slice) else np.asarray(at)
            return Texts(self.column.take(pa.array(rows)))
        return self.column[int(at)].as_py()

    def __iter__(self) -> Iterator[str]:
        for batch in self.column.chunks:
            for start in range(0, len(batch), CHUNK):
                yield from batch.slice(start, CHUNK).to_pylist()

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None


@dataclasses.dataclass(frozen=True)
class TrainingPairs:
    """N pairs. `vectors` are L2-normalised text vectors (N, dim) where they are known already, else None.

    `keys` and `captions` take lists and Arrow columns alike. `prints`: the fingerprint of each shard where it is known.
    `repeats` (N,) float64: how often a pair stands in a pass, None for once. `storage` fetches the shards of remote pools,
    whose `shards` are the paths of its cache. `skipped` counts, by reason, samples that were left out.
    """

    shards: list[Path]
    shard: np.ndarray  # (N,) int32, an index into `shards`
    offset: np.ndarray  # (N,) int64
    size: np.ndarray  # (N,) int64
    keys: Texts
    captions: Texts
    vectors: Vectors | None = None
    repeats: np.ndarray | None = None
    prints: list[Fingerprint] | None = None
    seeds: np.ndarray | None = None  # (N,) uint64, what `samples` would make
    storage: "Storage | None" = None
    skipped: Counter = dataclasses.field(default_factory=Counter)

    def __post_init__(self):
        for name in ("keys", "captions"):
            object.__setattr__(self, name, Texts(getattr(self, name)))

    def __len__(self) -> int:
        return len(self.shard)

    def place(self, row: int) -> tuple[Path, int, int]:
        """Shard, offset and size of a pair's image."""
        return self.shards[self.shard[row]], int(self.offset[row]), int(self.size[row])

    def named(self, row: int) -> str:
        """`00017.tar/000170042`, for people."""
        return f"{self.shards[self.shard[row]].name}/{self.keys[row]}"

    def take(self, rows: np.ndarray) -> "TrainingPairs":
        """The pairs of these rows, in their order."""
        rows = np.asarray(rows)
        arrays = ("shard", "offset", "size", "keys", "captions", "vectors", "repeats", "seeds")
        known = {name: getattr(self, name) for name in arrays}
        return dataclasses.replace(
            self, **{name: None if array is None else array[rows] for name, array in known.items()}
        )

    def samples(self) -> np.ndarray:
        """What seeds a picture's augmentation (N,) uint64: a hash of shard name and key, the same in whatever set it stands."""
        return self._samples

    @functools.cached_property
    def _samples(self) -> np.ndarray:
        return self.seeds if self.seeds is not None else sample_seeds(self.shards, self.shard, self.keys)

    def pictures(self) -> np.ndarray:
        """What tells pictures apart (N,) uint64, also those of two pools that name shards and keys alike: the shard's bytes
        and the image's place count too."""
        sizes = [known.size for known in self.prints] if self.prints else [path.stat().st_size for path in self.shards]
        names = [f"{path.name} {size}" for path, size in zip(self.shards, sizes, strict=True)]
        places = zip(self.shard.tolist(), self.keys, self.offset.tolist(), self.size.tolist(), strict=True)
        return hashes(f"{names[shard]}/{key} {offset} {size}" for shard, key, offset, size in places)


def sample_seeds(shards: list[Path], shard: np.ndarray, keys: Iterable[str]) -> np.ndarray:
    """(N,) uint64 of the shards' names and the keys."""
    names = [path.name for path in shards]
    return hashes(f"{names[one]}/{key}" for one, key in zip(shard.tolist(), keys, strict=True))


def hashes(texts: Iterable[str]) -> np.ndarray:
    """The first eight bytes of each text's SHA-256, little-endian, as uint64."""
    return np.frombuffer(b"".join(hashlib.sha256(text.encode()).digest()[:8] for text in texts), "<u8")
