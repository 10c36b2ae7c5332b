"""The handle on an index: a folder made by `index`, or a FAISS file from elsewhere."""

import functools
import math
from pathlib import Path
from typing import Any, Literal

from reactvl.handles.embeddings import Embeddings
from reactvl.manifest import (
    InputId,
    Manifest,
    ReactvlError,
    input_id,
    missing_files,
    path_beside,
    read_manifest,
    sha256_file,
)

FILE = "index.faiss"
FOREIGN_QUERIES, FOREIGN_K, FOREIGN_RECALL = 200, 100, 0.98  # what a bare file is tuned on, and to, when first used


class Index:
    """A FAISS index over one side of an embeddings folder; opening checks that the embeddings are still those indexed.

    The file is memory-mapped: opening is quick, and several processes share one copy. device: "gpu" searches a copy on the
    first GPU of faiss-gpu, within FAISS's limits there (2,048 candidates), else the file. Raises ReactvlError when the folder
    is no index, holds but one chunk of one, lacks a file, or its embeddings are missing, have changed or are of another model.
    """

    def __init__(self, folder: str | Path, embeddings: Embeddings | None = None, device: Literal["cpu", "gpu"] = "cpu"):
        self.folder, self.device = Path(folder), device
        self.manifest: Manifest | None = read_manifest(self.folder, "index")
        self.file = self.folder / FILE
        lost = missing_files(self.folder, self.manifest)
        if lost:
            raise ReactvlError(f"{self.folder}: lacks {lost[0]}; run `reactvl index` again")
        if "recall" not in self.manifest.facts:
            chunk = self.manifest.options.get("chunk", "1/1")
            raise ReactvlError(
                f"{self.folder}: holds chunk {chunk} of an index; join the chunks with `reactvl index --merge`"
            )
        if embeddings is None:
            embeddings = Embeddings.of_input(self.folder, self.manifest)
        elif embeddings.model.sha256 != self.manifest.model.sha256:
            raise ReactvlError(
                f"{self.folder}: is an index of vectors of {self.manifest.model.name} (weights "
                f"{self.manifest.model.sha256[:12]}); {embeddings.folder} was made with {embeddings.model.name} (weights "
                f"{embeddings.model.sha256[:12]})"
            )
        elif embeddings.identity(self.folder).sha256 != self.manifest.inputs["embeddings"].sha256:
            raise ReactvlError(
                f"{self.folder}: is an index of other embeddings than {embeddings.folder}; run `reactvl index` on these"
            )
        self.embeddings = embeddings
        self.keys: str = self.manifest.options["keys"]
        self._given: tuple[int | None, int | None] = (None, None)

    @classmethod
    def of_file(
        cls,
        path: str | Path,
        embeddings: Embeddings,
        keys: Literal["image", "text"] = "image",
        *,
        nprobe: int | None = None,
        ef_search: int | None = None,
    ) -> "Index":
        """An index made elsewhere, a FAISS file whose ids are the rows of these embeddings (autofaiss's, clip-retrieval's).

        At first use it is tuned on captions to a recall@100 of 0.98, since such files are saved with a width of 1; `nprobe` or
        `ef_search` set the width instead. ReactvlError when FAISS cannot read it, or its rows or dimensions are not those of
        the embeddings.
        """
        from reactvl.search.index import checked_rows

        self = cls.__new__(cls)
        self.folder = self.file = Path(path)
        self.device, self.manifest, self.embeddings, self.keys = "cpu", None, embeddings, keys
        self._given = (nprobe, ef_search)
        try:
            checked_rows(self.faiss, vectors(embeddings, keys))
        except ReactvlError as fault:
            raise ReactvlError(fault.args[0] if str(path) in fault.args[0] else f"{path}: {fault}") from None
        if nprobe is not None or ef_search is not None:
            self._width(nprobe, ef_search, 1)
        return self

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """What its manifest states of it: kind, setting, setting_value, refine, k, recall, recall_at, ..., and the wall-clock
        figures; of a bare file, the same found by tuning it now."""
        if self.manifest is not None:
            return {**self.manifest.facts, **self.manifest.measured}
        return _facts_of_file(self)

    @property
    def kind(self) -> str:
        """ "flat", "ivf-flat", "ivf-sq8", "hnsw", or a factory string; of a bare file, FAISS's class."""
        return self.manifest.facts["kind"] if self.manifest is not None else type(self.faiss).__name__

    @property
    def recall(self) -> float:
        """Recall at the depth that it was tuned for, on queries that it was not tuned on."""
        return self.facts["recall"]

    @property
    def recall_at(self) -> dict[int, float]:
        """Recall at 1, 10 and the depth that it was tuned for."""
        return {int(depth): value for depth, value in self.facts["recall_at"].items()}

    @property
    def qps(self) -> float:
        """Queries a second, re-scoring included, as measured when it was made (of a bare file: now)."""
        return self.facts["qps"]

    def identity(self, beside: Path | str) -> InputId:
        """What this index is as an input of the stage that writes `beside`."""
        if self.manifest is not None:
            return input_id(self.folder, beside)
        return InputId(path=path_beside(self.file, beside), sha256=sha256_file(self.file))

    @functools.cached_property
    def faiss(self) -> Any:
        """The faiss index, mapped from its file at first use."""
        from reactvl.search.index import load

        return load(self.file, mapped=True)

    @functools.cached_property
    def _vectors(self) -> list[Any]:
        """The memory maps of the indexed side: opening one takes as long as searching for a query."""
        return vectors(self.embeddings, self.keys)

    @functools.cached_property
    def _on_gpu(self) -> Any:
        from reactvl.search.gpu import on_gpu
        from reactvl.search.index import load

        return on_gpu(load(self.file))

    def _for(self, taken: float, width: int | None) -> Any:
        """The faiss index that answers: on the GPU, within its limits, where that was asked for."""
        from reactvl.search.gpu import fits_gpu

        return self._on_gpu if self.device == "gpu" and fits_gpu(math.ceil(taken), width) else self.faiss

    def search(
        self,
        queries: Any,
        k: int = 10,
        nprobe: int | None = None,
        ef_search: int | None = None,
        refine: float | None = None,
        model: Any = None,
    ) -> Any:
        """`search.hits.Hits` of float32 queries (Q, D): rows counted over the parts in order, scores from the vectors.

        `nprobe`, `ef_search`, `refine` stand in for the tuned setting; without them a search deeper than the tuned depth
        widens in proportion. `model`: the `Model` or `ModelId` that made the queries, refused when it is another than the
        index's. ReactvlError for that, and for a setting that this kind has not.
        """
        from reactvl.search.index import search

        self._check_model(model)
        width = self._width(nprobe, ef_search, k)
        refine = self.facts.get("refine", 1.0) if refine is None else refine
        index = self._for(k * refine, width)
        return search(index, queries, self._vectors, k, width=width, refine=refine)

    def above(
        self,
        queries: Any,
        threshold: float,
        nprobe: int | None = None,
        ef_search: int | None = None,
        model: Any = None,
    ) -> Any:
        """`search.hits.Hits` of every row found whose score reaches `threshold`, best first; queries float32 (D,) or (Q, D).

        Complete but for rows in parts of the index that the width leaves out: raise `nprobe` for more.
        """
        import numpy as np

        from reactvl.search.index import above

        self._check_model(model)
        asked = np.atleast_2d(np.asarray(queries, dtype=np.float32))
        width = self._width(nprobe, ef_search, 1)
        return above(self.faiss, asked, self._vectors, float(threshold), width=width)

    def _check_model(self, model: Any) -> None:
        if model is None:
            return
        given, made = getattr(model, "id", model), self.embeddings.model
        if given.sha256 != made.sha256:
            raise ReactvlError(
                f"{self.folder}: is an index of vectors of {made.name} (weights {made.sha256[:12]}); the queries are of "
                f"{given.name} (weights {given.sha256[:12]}), whose vectors mean other things"
            )

    def _width(self, nprobe: int | None, ef_search: int | None, k: int) -> int | None:
        """The width of a search of `k`; ReactvlError for a setting that this kind of index has not."""
        from reactvl.search.knobs import knob

        given = {"nprobe": nprobe, "efSearch": ef_search}
        if nprobe is None and ef_search is None:
            given = dict(zip(given, self._given, strict=True))
        asked = {name: value for name, value in given.items() if value is not None}
        name, widest = knob(self.faiss)
        for other, value in asked.items():
            if other != name:
                has = f"its width is {name}" if name != "exhaustive" else "it compares every row"
                raise ReactvlError(f"{self.folder}: a {self.kind} index has no {other}; {has}")
            if value < 1:
                raise ReactvlError(f"{self.folder}: {other} is {value}, wanted 1 or more")
        if asked:
            return min(asked[name], widest)
        if name == "exhaustive":
            return None
        facts = self.facts
        return min(widest, max(1, math.ceil(facts["setting_value"] * max(1.0, k / facts["k"]))))

    def __len__(self) -> int:
        return len(self.embeddings)

    def __repr__(self) -> str:
        known = f", recall {self.recall:.3f}" if self.manifest is not None else ""
        return f"Index({str(self.folder)!r}: {self.kind}, {len(self):,} {self.keys} vectors{known})"


def _facts_of_file(index: Index) -> dict[str, Any]:
    """A bare file tuned on captions (or, without any, on keys), and timed."""
    from reactvl.search.asking import sampled
    from reactvl.search.index import search
    from reactvl.search.latency import latency
    from reactvl.search.tuned import tuned

    side = text_side(index.embeddings)
    asked = vectors(index.embeddings, side)
    parts = vectors(index.embeddings, index.keys)
    source = {"text": "captions", "image": "images"}[side]
    queries = sampled(asked, FOREIGN_QUERIES, 0, source=source, keys=side == index.keys)
    width = next((value for value in index._given if value is not None), None)
    found = tuned(index.faiss, queries, parts, FOREIGN_K, FOREIGN_RECALL, width=width)
    setting = found.setting

    def searched(vectors, k):
        return search(index.faiss, vectors, parts, k, width=setting.value or None, refine=setting.refine)

    return {
        "setting": setting.name,
        "setting_value": setting.value,
        "refine": setting.refine,
        "k": found.k,
        "recall": found.recall,
        "recall_at": {str(depth): value for depth, value in found.recall_at.items()},
        "queries_from": source,
        **latency(searched, queries.vectors[queries.of(1)], found.k),
    }


def text_side(embeddings: Embeddings) -> str:
    """The side whose vectors stand in for text queries: captions where every part has them."""
    return "text" if all(part.texts() is not None for part in embeddings.parts) else "image"


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
