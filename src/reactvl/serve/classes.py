"""The retrieved pairs of a run as a service needs them: the rows of a class, and the classes of a row."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reactvl.manifest import ReactvlError

if TYPE_CHECKING:
    from reactvl.handles.embeddings import Embeddings
    from reactvl.serve.metadata import Metadata


class Classes:
    """Names and pairs of a retrieved folder; class i is that of id i, its pairs in rank order.

    rows: int64 (n,) over all parts; similarity: float32 (n,), NaN where a word match found the pair; `bounds[i]` to
    `bounds[i + 1]` are class i's.
    """

    def __init__(self, names: list[str], class_id: np.ndarray, rows: np.ndarray, similarity: np.ndarray):
        self.names, self.rows, self.similarity = names, rows, similarity
        self.bounds = np.searchsorted(class_id, np.arange(len(names) + 1))
        order = np.lexsort((class_id, rows))
        self._sorted, self._ids = rows[order], class_id[order]

    @classmethod
    def none(cls) -> "Classes":
        """Of a folder in which nothing was retrieved."""
        return cls([], np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))

    @classmethod
    def of(cls, folder: Path, embeddings: "Embeddings", metadata: "Metadata") -> "Classes":
        """The classes of a finished retrieved folder; ReactvlError when it is none, or of other embeddings."""
        from reactvl.handles.pairs import Pairs

        pairs = Pairs(folder)
        if pairs.manifest.inputs["embeddings"].sha256 != embeddings.identity(folder).sha256:
            raise ReactvlError(f"{folder}: was retrieved from other embeddings than {embeddings.folder}")
        table = pairs.table(["class_id", "rank", "part", "row", "similarity"]).combine_chunks()
        class_id, rank, part, row = (
            table[name].to_numpy().astype(np.int64) for name in ("class_id", "rank", "part", "row")
        )
        order = np.lexsort((rank, class_id))
        rows = metadata.rows_of(part, row)[order]
        if len(rows) and (rows.min() < 0 or class_id.min() < 0 or class_id.max() >= len(pairs.classes)):
            raise ReactvlError(f"{folder}: names a pair or a class that is not there; run `reactvl retrieve` again")
        similarity = table["similarity"].to_numpy().astype(np.float32)
        return cls(pairs.classes, class_id[order], rows, similarity[order])

    def __len__(self) -> int:
        return len(self.names)

    def place(self, class_id: int) -> slice:
        """Where the pairs of a class stand in `rows`; ReactvlError when there is no such class."""
        if not 0 <= class_id < len(self.names):
            has = f"it has {len(self.names):,}, numbered from 0" if self.names else "nothing was retrieved here"
            raise ReactvlError(f"there is no class {class_id}: {has}")
        return slice(int(self.bounds[class_id]), int(self.bounds[class_id + 1]))

    def of_rows(self, rows: np.ndarray) -> list[list[int]]:
        """The classes that have each row, ascending."""
        if not len(self._sorted):
            return [[] for _ in range(len(rows))]
        first = np.searchsorted(self._sorted, rows).tolist()
        last = np.searchsorted(self._sorted, rows, side="right").tolist()
        return [self._ids[a:b].tolist() if b > a else [] for a, b in zip(first, last, strict=True)]

    def counts(self, rows: np.ndarray) -> list[tuple[int, int]]:
        """(class, how many of the rows it has), most frequent first, then by id."""
        if not len(self._sorted) or not len(rows):
            return []
        first = np.searchsorted(self._sorted, rows)
        many = np.searchsorted(self._sorted, rows, side="right") - first
        entries = np.repeat(first - np.cumsum(many) + many, many) + np.arange(many.sum())
        ids, counts = np.unique(self._ids[entries], return_counts=True)
        order = np.lexsort((ids, -counts))
        return list(zip(ids[order].tolist(), counts[order].tolist(), strict=True))

    def info(self) -> list[dict[str, Any]]:
        """id, name and pairs of every class."""
        pairs = np.diff(self.bounds).tolist()
        return [{"id": number, "name": name, "pairs": pairs[number]} for number, name in enumerate(self.names)]
