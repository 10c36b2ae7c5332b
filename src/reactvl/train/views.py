"""Features of the frozen lower tower, computed once a view and kept on disk.

Where the lower tower is frozen and deep (a convolutional stem, or the blocks below the first gate), running it again
every epoch is most of a step's work. With V views a pair is seen in V augmented forms instead of a new one each epoch;
epoch e shows it view (e + an offset of its own) mod V. View v of a picture is a function of the picture and v alone, so
that one folder serves every run of the same lower tower and augmentation: a run computes only pictures that no earlier
one did.

    FOLDER/block_1f0c.../ids.npy          (pictures,) uint64
    FOLDER/block_1f0c.../view_0003.npy    (pictures, *shape of a feature) float16; NaN where the picture cannot be read
    FOLDER/block_1f0c.../skipped.json     id of each of these, and why
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reactvl.manifest import replacing, sha256_json, write_json
from reactvl.models.encoder import autocast
from reactvl.progress import progress
from reactvl.train.augmentation import Augment
from reactvl.train.loader import Augmentation, batches
from reactvl.train.pairs import TrainingPairs

BATCH = 128


class Block:
    """Features of some pictures in `count` views, memory-mapped."""

    def __init__(self, folder: Path, count: int):
        self.ids = np.load(folder / "ids.npy")
        self.views = [np.load(folder / name(view), mmap_mode="r") for view in range(count)]
        self.skipped = {int(sample): why for sample, why in json.loads((folder / "skipped.json").read_text()).items()}


class ViewFeatures:
    """Features by (row of the pairs, view), wherever they lie; `bad` holds rows whose picture cannot be read."""

    def __init__(self, blocks: list[Block], samples: np.ndarray):
        self.blocks = blocks
        self.block, self.place = np.full(len(samples), -1), np.zeros(len(samples), np.int64)
        self.bad: dict[int, str] = {}
        for number, block in enumerate(blocks):
            order = np.argsort(block.ids)
            at = np.searchsorted(block.ids, samples, sorter=order).clip(max=len(order) - 1)
            found = (block.ids[order[at]] == samples) & (self.block < 0)
            self.block[found], self.place[found] = number, order[at[found]]
            self.bad |= {
                int(row): block.skipped[int(samples[row])]
                for row in np.flatnonzero(found)
                if int(samples[row]) in block.skipped
            }
        self.missing = np.flatnonzero(self.block < 0)

    def take(self, rows: np.ndarray, views: np.ndarray) -> Tensor:
        """Features (B, ...) float32."""
        picked = [
            self.blocks[block].views[view][place]
            for block, view, place in zip(self.block[rows], views, self.place[rows], strict=True)
        ]
        return torch.from_numpy(np.stack(picked).astype(np.float32))


def key(augment: Augmentation, lower_digest: str, size: int) -> str:
    """Names the folder: what decides the features' bytes, but for the pictures."""
    way = [] if isinstance(augment, Augment) else [type(augment).__name__]
    return sha256_json([repr(augment.config), lower_digest, size, *way])[:16]


def ensure(
    folder: Path,
    pairs: TrainingPairs,
    augment: Augmentation,
    lower: Callable[[Tensor], Tensor],
    *,
    count: int,
    device: torch.device,
    precision: str,
    workers: int | None,
) -> ViewFeatures:
    """Features of every pair in views 0..count-1, from `folder` and, where it lacks them, computed into it."""
    samples = pairs.pictures()
    found = ViewFeatures(whole_blocks(folder, count), samples)
    if not len(found.missing):
        return found
    lacking = found.missing[
        np.unique(samples[found.missing], return_index=True)[1]
    ]  # a picture that stands twice, once
    compute(folder, pairs.take(np.sort(lacking)), augment, lower, count, device, precision, workers)
    return ViewFeatures(whole_blocks(folder, count), samples)


def whole_blocks(folder: Path, count: int) -> list[Block]:
    """The blocks that have at least `count` views."""
    done = [path for path in sorted(folder.glob("block_*")) if (path / "skipped.json").exists()]
    return [Block(path, count) for path in done if all((path / name(view)).exists() for view in range(count))]


def name(view: int) -> str:
    return f"view_{view:04d}.npy"


def compute(
    folder: Path,
    pairs: TrainingPairs,
    augment: Augmentation,
    lower: Callable[[Tensor], Tensor],
    count: int,
    device: torch.device,
    precision: str,
    workers: int | None,
) -> None:
    """Write one block. A view is written whole or not at all, so that an interrupted run goes on with the next."""
    samples = pairs.pictures()
    home = folder / f"block_{hashlib.sha256(samples.tobytes()).hexdigest()[:16]}"
    home.mkdir(parents=True, exist_ok=True)
    with replacing(home / "ids.npy") as part, open(part, "wb") as file:
        np.save(file, samples)
    missing = [view for view in range(count) if not (home / name(view)).exists()]
    bad: dict[int, str] = {}
    with progress("features of augmented views", count * len(pairs), "views") as bar:
        bar.advance((count - len(missing)) * len(pairs), resumed=True)
        plan = [[(row, view) for row in rows] for view in missing for rows in chunks(len(pairs))]
        loader = batches(pairs, augment, plan, workers)
        for view in missing:
            with replacing(home / name(view)) as part:
                features = None
                for _ in chunks(len(pairs)):
                    loaded = next(loader)
                    rows, unread = loaded.rows, loaded.bad
                    bad |= unread
                    if len(rows):
                        with torch.inference_mode(), autocast(device, precision):
                            pictures = augment.on_device(loaded.pixels.to(device), loaded.epochs, loaded.samples)
                            made = lower(pictures).float().cpu().numpy()
                        if features is None:
                            shape = (len(pairs), *made.shape[1:])
                            features = np.lib.format.open_memmap(part, mode="w+", dtype=np.float16, shape=shape)
                        features[rows] = made
                    bar.advance(len(rows) + len(unread))
                if features is None:  # not one readable picture, and so no shape of a feature: a column of NaN
                    features = np.lib.format.open_memmap(part, mode="w+", dtype=np.float16, shape=(len(pairs), 1))
                features[sorted(bad)] = np.nan
                features.flush()
                write_json(home / "skipped.json", {str(samples[row]): why for row, why in sorted(bad.items())})


def chunks(count: int) -> list[range]:
    return [range(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]


def view_of(rows: np.ndarray, epochs: np.ndarray, count: int) -> np.ndarray:
    """Which of `count` views (B,) a pair shows in an epoch: each pair starts at a view of its own."""
    return (epochs + rows * 2654435761) % count
