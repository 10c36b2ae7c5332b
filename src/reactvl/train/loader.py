"""Augmented views of pairs, made by worker processes in the order that the steps want them."""

import os
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from reactvl.pool.images import BadImage, decode
from reactvl.pool.reader import read_image
from reactvl.train.augmentation import Augment
from reactvl.train.pairs import TrainingPairs


class Views(Dataset):
    """Item (row, view): the augmented picture (3, H, W) float32, or None for one that cannot be read, and the reason."""

    def __init__(self, pairs: TrainingPairs, augment: Augment):
        self.pairs, self.augment = pairs, augment
        self.samples = pairs.samples()

    def __getitem__(self, item: tuple[int, int]) -> tuple[int, Tensor | None, str]:
        row, view = item
        try:
            picture = Image.fromarray(decode(read_image(*self.pairs.place(row))))
        except (BadImage, OSError) as fault:
            return row, None, str(fault)
        return row, self.augment(picture, view, int(self.samples[row])), ""


def batches(
    pairs: TrainingPairs, augment: Augment, plan: Iterable[list[tuple[int, int]]], workers: int | None = None
) -> Iterator[tuple[Tensor, np.ndarray, dict[int, str]]]:
    """For each list of (row, view) of the plan: pictures (B, 3, H, W), their rows (B,) and the rows left out with the reason."""
    count = len(os.sched_getaffinity(0)) if workers is None else workers
    yield from DataLoader(
        Views(pairs, augment),
        batch_sampler=plan,
        num_workers=max(count, 1),  # never in this process: augmentation seeds global generators
        collate_fn=collate,
        prefetch_factor=4,
    )


def collate(items: list[tuple[int, Tensor | None, str]]) -> tuple[Tensor, np.ndarray, dict[int, str]]:
    good = [(row, picture) for row, picture, _ in items if picture is not None]
    pictures = torch.stack([picture for _, picture in good]) if good else torch.empty(0)
    return (
        pictures,
        np.array([row for row, _ in good], np.int64),
        {row: why for row, picture, why in items if picture is None},
    )
