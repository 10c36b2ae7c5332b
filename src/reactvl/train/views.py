"""Features of the frozen lower tower, computed once a view: `views` augmented views of every pair, kept on disk.

Where the lower tower is frozen and deep (a convolutional stem, or the blocks below the first gate), running it again
every epoch is most of a step's work. With V views a pair is seen in V augmented forms instead of a new one each epoch;
epoch e shows it view (e + an offset of its own) mod V. One folder serves every run that shares pictures, stem,
augmentation and seed.

    FOLDER/view_0003.npy    (pairs, *shape of a feature) float16; a row of NaN where the picture cannot be read
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reactvl.manifest import ReactvlError, replacing, sha256_json, write_json
from reactvl.models.encoder import autocast
from reactvl.progress import progress
from reactvl.train.augmentation import Augment
from reactvl.train.loader import batches
from reactvl.train.pairs import TrainingPairs

BATCH = 128


class ViewFeatures:
    """Features of (row, view) from the folder, memory-mapped."""

    def __init__(self, folder: Path, count: int):
        self.views = [np.load(folder / name(view), mmap_mode="r") for view in range(count)]
        self.bad = {int(row): reason for row, reason in json.loads((folder / "skipped.json").read_text()).items()}

    def take(self, rows: np.ndarray, views: np.ndarray) -> Tensor:
        """Features (B, ...) float32."""
        return torch.from_numpy(
            np.stack([self.views[view][row] for row, view in zip(rows, views, strict=True)]).astype(np.float32)
        )


def name(view: int) -> str:
    return f"view_{view:04d}.npy"


def key(pairs: TrainingPairs, augment: Augment, lower_digest: str, size: int) -> str:
    """Names the folder: what decides the features' bytes."""
    return sha256_json([pairs.digest(), repr(augment.config), augment.seed, lower_digest, size])[:16]


def compute(
    folder: Path,
    pairs: TrainingPairs,
    augment: Augment,
    lower: Callable[[Tensor], Tensor],
    *,
    count: int,
    device: torch.device,
    precision: str,
    workers: int | None,
) -> ViewFeatures:
    """Fill `folder` with what it lacks of views 0..count-1; a view is written whole or not at all, so an interrupted run goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [view for view in range(count) if not (folder / name(view)).exists()]
    skipped = folder / "skipped.json"
    bad = {int(row): why for row, why in json.loads(skipped.read_text()).items()} if skipped.exists() else {}
    with progress("features of augmented views", count * len(pairs), "views") as bar:
        bar.advance((count - len(missing)) * len(pairs), resumed=True)
        plan = [[(row, view) for row in rows] for view in missing for rows in chunks(len(pairs))]
        loader = batches(pairs, augment, plan, workers)
        for view in missing:
            with replacing(folder / name(view)) as part:
                features = None
                for _ in chunks(len(pairs)):
                    pictures, rows, unread = next(loader)
                    bad |= unread
                    if len(rows):
                        with torch.inference_mode(), autocast(device, precision):
                            made = lower(pictures.to(device)).float().cpu().numpy()
                        if features is None:
                            shape = (len(pairs), *made.shape[1:])
                            features = np.lib.format.open_memmap(part, mode="w+", dtype=np.float16, shape=shape)
                        features[rows] = made
                    bar.advance(len(rows) + len(unread))
                if features is None:
                    raise ReactvlError(f"none of the {len(pairs):,} pictures can be read ({next(iter(bad.values()))})")
                features[sorted(bad)] = np.nan
                features.flush()
                write_json(skipped, bad)
    return ViewFeatures(folder, count)


def chunks(count: int) -> list[range]:
    return [range(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]


def view_of(rows: np.ndarray, epochs: np.ndarray, count: int) -> np.ndarray:
    """Which of `count` views (B,) a pair shows in an epoch: each pair starts at a view of its own."""
    return (epochs + rows * 2654435761) % count
