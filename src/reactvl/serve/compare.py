"""Customized models beside the base model: the base's nearest pairs ranked again by what a customized model sees."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reactvl.manifest import ReactvlError, read_manifest
from reactvl.pool.images import BadImage, to_pixels
from reactvl.serve.pictures import Pictures
from reactvl.serve.querying import Towers

if TYPE_CHECKING:
    from torch import Tensor

NEAREST = 200  # of the base's that are ranked again
VECTORS = 200_000  # of pictures that are kept for each model: 400 MB of 512 dimensions
BATCH = 64


class Customized:
    """A customized model of a run; its weights are read when it is first asked for."""

    def __init__(self, name: str, folder: Path, pictures: Pictures, device: str, precision: str):
        self.name, self.folder, self.pictures = name, folder, pictures
        self._options = (device, precision)
        self._towers: Towers | None = None
        self._vectors: OrderedDict[int, np.ndarray | None] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def towers(self) -> Towers:
        """The model's towers; ReactvlError when its folder is no longer whole."""
        with self._lock:
            if self._towers is None:
                from reactvl.models import load

                self._towers = Towers(load(self.folder), *self._options)
            return self._towers

    def similarities(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """float64 (n,): the cosine of a query (dim,) of this model with the pictures of rows; NaN for one that cannot be
        read."""
        vectors = self.vectors(rows.tolist())
        found = np.full(len(rows), np.nan)
        there = [at for at, vector in enumerate(vectors) if vector is not None]
        if there:
            found[there] = np.stack([vectors[at] for at in there]).astype(np.float64) @ query.astype(np.float64)
        return found

    def vectors(self, rows: Sequence[int]) -> list[np.ndarray | None]:
        """The unit vector float32 (dim,) of each row's picture, read and encoded where it is not known; None for one that
        cannot be read."""
        fresh = [row for row in dict.fromkeys(rows) if row not in self._vectors]
        made = dict(zip(fresh, self._encoded(fresh), strict=True))
        found = [made[row] if row in made else self._vectors[row] for row in rows]
        self._vectors |= made
        for row in rows:
            self._vectors.move_to_end(row)
        while len(self._vectors) > VECTORS:
            self._vectors.popitem(last=False)
        return found

    def _encoded(self, rows: Sequence[int]) -> list[np.ndarray | None]:
        found: list[np.ndarray | None] = []
        if not rows:
            return found
        options = self.towers.options()
        with ThreadPoolExecutor(thread_name_prefix="decode") as threads:
            for first in range(0, len(rows), BATCH):
                pixels = list(threads.map(lambda row: self._pixels(row, options), rows[first : first + BATCH]))
                whole = [at for at, each in enumerate(pixels) if each is not None]
                vectors = self.towers.pictures([pixels[at] for at in whole])
                some: list[np.ndarray | None] = [None] * len(pixels)
                for at, vector in zip(whole, vectors, strict=True):
                    some[at] = None if isinstance(vector, ReactvlError) else vector
                found += some
        return found

    def _pixels(self, row: int, options: dict) -> "Tensor | None":
        import torch

        try:
            return torch.from_numpy(to_pixels(self.pictures.read(row), **options))
        except (ReactvlError, BadImage):
            return None


def customized_of(run: Path, pictures: Pictures, device: str, precision: str) -> dict[str, Customized]:
    """The finished customized models of a run by the names of their folders: `customized/*/`, or `customized/` itself."""
    home = run / "customized"
    if not home.is_dir():
        return {}
    homes = [home] if (home / "manifest.json").is_file() else sorted(path for path in home.iterdir() if path.is_dir())
    return {
        path.name: Customized(path.name, path, pictures, device, precision)
        for path in homes
        if (path / "manifest.json").is_file() and is_customized(path)
    }


def is_customized(path: Path) -> bool:
    """Whether a folder is the whole output of `customize`."""
    try:
        return read_manifest(path).stage == "customize" and (path / "model").is_dir()
    except ReactvlError:
        return False
