"""The pairs that training reads, as plain arrays; images stay in their shards and are read by offset."""

import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from reactvl.manifest import ReactvlError
from reactvl.pool.patterns import expand
from reactvl.pool.tars import scan


@dataclasses.dataclass(frozen=True)
class TrainingPairs:
    """N pairs. `vectors` are L2-normalised text vectors (N, dim) where they are known already, else None."""

    shards: list[Path]
    shard: np.ndarray  # (N,) int32, an index into `shards`
    offset: np.ndarray  # (N,) int64
    size: np.ndarray  # (N,) int64
    keys: list[str]
    captions: list[str]
    vectors: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.captions)

    def place(self, row: int) -> tuple[Path, int, int]:
        """Shard, offset and size of a pair's image."""
        return self.shards[self.shard[row]], int(self.offset[row]), int(self.size[row])

    def take(self, rows: np.ndarray) -> "TrainingPairs":
        """The pairs of these rows, in their order."""
        return TrainingPairs(
            self.shards,
            self.shard[rows],
            self.offset[rows],
            self.size[rows],
            [self.keys[row] for row in rows],
            [self.captions[row] for row in rows],
            None if self.vectors is None else self.vectors[rows],
        )

    def sample(self, count: int, seed: int) -> "TrainingPairs":
        """`count` pairs drawn without replacement, in pool order; ReactvlError when there are fewer."""
        if count > len(self):
            raise ReactvlError(f"train_num_samples = {count:,}: there are {len(self):,} pairs")
        rows = np.random.Generator(np.random.Philox(key=[seed, 0x5A])).choice(len(self), count, replace=False)
        return self.take(np.sort(rows))

    def samples(self) -> np.ndarray:
        """What seeds a picture's augmentation (N,) uint64: a hash of shard name and key, the same in whatever set it stands."""
        names = [path.name for path in self.shards]
        return hashes(f"{names[shard]}/{key}" for shard, key in zip(self.shard.tolist(), self.keys, strict=True))

    def pictures(self) -> np.ndarray:
        """What tells pictures apart (N,) uint64, also those of two pools that name shards and keys alike: the shard's bytes
        and the image's place count too."""
        names = [f"{path.name} {path.stat().st_size}" for path in self.shards]
        places = zip(self.shard.tolist(), self.keys, self.offset.tolist(), self.size.tolist(), strict=True)
        return hashes(f"{names[shard]}/{key} {offset} {size}" for shard, key, offset, size in places)


def hashes(texts: Iterable[str]) -> np.ndarray:
    """The first eight bytes of each text's SHA-256, as uint64."""
    return np.array([int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") for text in texts], np.uint64)


def from_shards(pattern: str) -> TrainingPairs:
    """Every pair of a webdataset's shards that has an image and a caption; whether the image can be read shows when it is."""
    shards, rows = expand(pattern), []
    for index, path in enumerate(shards):
        rows += [(index, sample) for sample in scan(path) if sample.caption]
    if not rows:
        raise ReactvlError(f"{pattern}: holds no pair of an image and a caption")
    return TrainingPairs(
        shards,
        np.array([index for index, _ in rows], np.int32),
        np.array([sample.offset for _, sample in rows], np.int64),
        np.array([sample.size for _, sample in rows], np.int64),
        [sample.key for _, sample in rows],
        [sample.caption for _, sample in rows],
    )
