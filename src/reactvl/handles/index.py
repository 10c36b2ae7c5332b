"""The handle on an index folder."""

import functools
from pathlib import Path
from typing import Any

from reactvl.handles.embeddings import Embeddings
from reactvl.manifest import Manifest, ReactvlError, input_id, input_path, missing_files, read_manifest

FILE = "index.faiss"


class Index:
    """A FAISS index over one side of an embeddings folder; opening checks that the embeddings are still those indexed.

    Raises ReactvlError when the folder is no index, lacks a file, or its embeddings are missing or have changed.
    """

    def __init__(self, folder: str | Path, embeddings: Embeddings | None = None):
        self.folder = Path(folder)
        self.manifest: Manifest = read_manifest(self.folder, "index")
        lost = missing_files(self.folder, self.manifest)
        if lost:
            raise ReactvlError(f"{self.folder}: lacks {lost[0]}; run `reactvl index` again")
        home = embeddings.folder if embeddings else input_path(self.folder, self.manifest, "embeddings")
        if not (Path(home) / "manifest.json").exists():
            raise ReactvlError(
                f"{self.folder}: indexes {home}, which is not there; move it back or run `reactvl index` again"
            )
        if input_id(home, self.folder).sha256 != self.manifest.inputs["embeddings"].sha256:
            raise ReactvlError(
                f"{self.folder}: is an index of other embeddings than {home}; run `reactvl index` on these"
            )
        self.embeddings = embeddings or Embeddings(home)

    @property
    def kind(self) -> str:
        """ "flat", "ivf" or "hnsw"."""
        return self.manifest.options["kind"]

    @property
    def keys(self) -> str:
        """Which vectors it holds: "image" or "text"."""
        return self.manifest.options["keys"]

    @property
    def recall(self) -> float:
        """Recall as measured when it was made."""
        return self.manifest.facts["recall"]

    @functools.cached_property
    def faiss(self) -> Any:
        """The faiss index, read at first use."""
        from reactvl.search.index import load

        return load(self.folder / FILE)

    def search(self, queries: Any, k: int = 10) -> Any:
        """`search.hits.Hits` of float32 queries (Q, D): rows counted over the parts in order, scores from the
        vectors."""
        from reactvl.search.index import search

        return search(self.faiss, queries, vectors(self.embeddings, self.keys), k)

    def __len__(self) -> int:
        return self.manifest.counts["rows"]

    def __repr__(self) -> str:
        return f"Index({str(self.folder)!r}: {self.kind}, {len(self):,} {self.keys} vectors, recall {self.recall:.3f})"


def vectors(embeddings: Embeddings, side: str) -> list[Any]:
    """The float16 matrices (rows, dim) of one side, "image" or "text", a part each.

    Raises ReactvlError when the embeddings, or one of their parts, have no such half.
    """
    matrices = [part.images() if side == "image" else part.texts() for part in embeddings.parts]
    for part, matrix in zip(embeddings.parts, matrices, strict=True):
        if matrix is None:
            where = (
                embeddings.folder
                if all(one is None for one in matrices)
                else f"{embeddings.folder}, part {part.number}"
            )
            raise ReactvlError(f"{where}: has no {side} vectors; embed again, or search the other side")
    return matrices
