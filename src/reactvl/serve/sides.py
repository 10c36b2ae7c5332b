"""One side of a pool, its pictures' or its captions' vectors: searched exactly or by an index, and scored row by row.

Rows are counted over all parts of the pool, also those that lack this side: no search finds those, and their score is NaN.
"""

import functools
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reactvl.manifest import ReactvlError
from reactvl.search.exact import top_k
from reactvl.search.hits import Hits, part_offsets
from reactvl.search.rescore import gather, rescore

if TYPE_CHECKING:
    from reactvl.handles.embeddings import Embeddings
    from reactvl.handles.index import Index

NAMES = ("image", "text")
BACKGROUND_ROWS = 32_768  # that say how similar anything is to a query, as in `retrieve`
SPREAD = 1e-9  # a smaller standard deviation is that of equal rows


class Side:
    """The vectors of one side: `parts`, the memory maps of those parts that have it."""

    def __init__(self, name: str, embeddings: "Embeddings", index: "Index | None" = None, device: str = "cpu"):
        matrices = [part.images() if name == "image" else part.texts() for part in embeddings.parts]
        begins = part_offsets([range(part.rows) for part in embeddings.parts])[:-1]
        self.name, self.index, self.device = name, index, device
        self.parts = [matrix for matrix in matrices if matrix is not None]
        self.offsets = part_offsets(self.parts)  # in the count of this side's own rows
        self.begins = begins[[matrix is not None for matrix in matrices]]  # in the count of all rows
        self.rows = int(self.offsets[-1])
        self.whole = len(self.parts) == len(matrices)

    @property
    def exact(self) -> bool:
        return self.index is None

    def search(self, queries: np.ndarray, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """(rows int64, similarities float32), best first, of each of the queries float32 (Q, D): at most `k`."""
        k = min(k, self.rows)
        if not k:
            return [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(queries)
        hits: Hits = (
            top_k(queries, self.parts, k, device=self.device) if self.index is None else self.index.search(queries, k)
        )
        bounds = hits.bounds().tolist()
        rows = self.over_all(hits.row)
        return [(rows[first:last], hits.score[first:last]) for first, last in itertools.pairwise(bounds)]

    def scores(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """float64 (n,): similarity of one query (D,) to rows over all parts; NaN where there is no vector, or no finite
        one."""
        own = self.own(rows)
        there = np.flatnonzero(own >= 0)
        found = np.full(len(rows), np.nan)
        if len(there):
            found[there] = rescore(query[None], self.parts, np.zeros(len(there), np.int64), own[there])
        found[~np.isfinite(found)] = np.nan
        return found

    def vector(self, row: int) -> np.ndarray | None:
        """float32 (D,) of a row over all parts; None where there is no vector, or no finite one of any length."""
        own = self.own(np.array([row]))
        if own[0] < 0:
            return None
        vector = gather(self.parts, self.offsets, own)[0]
        return vector if np.isfinite(vector).all() and vector.any() else None

    def spread(self, query: np.ndarray) -> tuple[float, float]:
        """Mean and standard deviation of a query's similarity to a sample of the pool."""
        mean, covariance = self.background
        query = query.astype(np.float64)
        deviation = float(np.sqrt(max(query @ covariance @ query, 0.0)))
        return float(query @ mean), deviation if deviation > SPREAD else 1.0

    @functools.cached_property
    def background(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean (D,) and covariance (D, D), float64, of a seeded sample of the rows, one that is not finite taken as zeros:
        they give the mean and the deviation of any query's similarities without the sample."""
        generator = np.random.default_rng([0, 2])
        few = self.rows <= BACKGROUND_ROWS
        chosen = np.arange(self.rows) if few else np.sort(generator.choice(self.rows, BACKGROUND_ROWS, replace=False))
        sample = gather(self.parts, self.offsets, chosen)
        sample[~np.isfinite(sample).all(axis=1)] = 0
        mean = sample.mean(axis=0, dtype=np.float64)
        covariance = np.zeros((sample.shape[1],) * 2)
        for first in range(0, len(sample), 4096):
            some = sample[first : first + 4096] - mean
            covariance += some.T @ some
        return mean, covariance / len(sample)

    def over_all(self, rows: np.ndarray) -> np.ndarray:
        """Rows of this side in the count of all."""
        if self.whole:
            return rows
        place = np.searchsorted(self.offsets, rows, side="right") - 1
        return rows + (self.begins - self.offsets[:-1])[place]

    def own(self, rows: np.ndarray) -> np.ndarray:
        """Rows over all parts in the count of this side, -1 where a part lacks it."""
        if self.whole:
            return rows
        if not self.parts:
            return np.full(len(rows), -1)
        place = np.searchsorted(self.begins, rows, side="right") - 1
        within = rows - self.begins[place]
        there = (place >= 0) & (within < np.diff(self.offsets)[place])
        return np.where(there, self.offsets[:-1][place] + within, -1)


def sides_of(embeddings: "Embeddings", indexes: "dict[str, Index]", device: str) -> dict[str, Side]:
    """The sides that a pool has, by name."""
    found = {name: Side(name, embeddings, indexes.get(name), device) for name in NAMES}
    return {name: side for name, side in found.items() if side.parts}


def indexes_of(given: list[str | Path], embeddings: "Embeddings", home: Path | None) -> "dict[str, Index]":
    """The indexes to search by, by the side that each holds: those given, or the one at `home` where it belongs to these
    embeddings.

    Raises ReactvlError for one that is none or of other embeddings, and for two of one side.
    """
    from reactvl.handles.index import Index
    from reactvl.progress import say

    if not given and home is not None and (home / "manifest.json").is_file():
        try:
            found = Index(home, embeddings)
        except ReactvlError as fault:
            say(f"serve: searches exactly, for {fault}")
            return {}
        return {found.keys: found}
    sides: dict[str, Index] = {}
    for path in (each for one in given for each in members(Path(one))):
        index = opened(path, embeddings)
        if index.keys in sides:
            raise ReactvlError(
                f"{path}: holds {index.keys} vectors, and so does {sides[index.keys].folder}; give one of them"
            )
        if index.manifest is None:
            say(f"serve: {path} is tuned to a recall of 0.98 on these embeddings")
        index.facts  # noqa: B018  a bare file is tuned now, not at the first search
        sides[index.keys] = index
    return sides


def members(path: Path) -> list[Path]:
    """The indexes that a path names: itself, or the `image.index` and `text.index` of a folder of clip-retrieval's."""
    if path.is_dir() and not (path / "manifest.json").exists():
        files = [path / f"{name}.index" for name in NAMES if (path / f"{name}.index").is_file()]
        return files or [path]
    return [path]


def opened(path: Path, embeddings: "Embeddings") -> "Index":
    """An index folder, or a bare FAISS file, whose side is told by its name, else is the only or the pictures'."""
    from reactvl.handles.index import Index

    if path.is_dir():
        return Index(path, embeddings)
    if not path.is_file():
        raise ReactvlError(f"--index {path}: is neither an index folder nor a FAISS file")
    there = {name for name in NAMES if any((part.images, part.texts)[name == "text"]() is not None
                                           for part in embeddings.parts)}  # fmt: skip
    named = [name for name in NAMES if path.name.lower().startswith(name)]
    return Index.of_file(path, embeddings, (named or [name for name in NAMES if name in there] or ["image"])[0])
