"""The handle on a retrieved folder: the chosen pairs, a view on the pool."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reactvl.handles.class_pairs import ClassPairs
from reactvl.handles.embeddings import Embeddings
from reactvl.handles.showing import Gallery
from reactvl.manifest import Manifest, ModelId, ReactvlError, missing_files, read_manifest

if TYPE_CHECKING:
    import pyarrow as pa

FILE, SHARDS = "pairs.parquet", "shards"
CLASSES = 12  # shown unasked


class Pairs:
    """Retrieved pairs, ordered by class and rank; opening checks the folder against its manifest.

    Pair i is row i of `table()`. Images stay in the pool: `read_image(i)` reads one by its offset. Raises ReactvlError
    when the folder is no output of `retrieve`, lacks a file or has another number of pairs than its manifest says.
    """

    def __init__(self, folder: str | Path):
        import pyarrow.parquet as pq

        self.folder = Path(folder)
        self.manifest: Manifest = read_manifest(self.folder, "retrieve")
        lost = missing_files(self.folder, self.manifest)
        if lost:
            raise ReactvlError(f"{self.folder}: lacks {lost[0]}; run `reactvl retrieve` again")
        self._rows = pq.read_metadata(self.folder / FILE).num_rows
        if self._rows != self.manifest.counts["pairs"]:
            raise ReactvlError(
                f"{self.folder / FILE}: holds {self._rows:,} pairs, its manifest says "
                f"{self.manifest.counts['pairs']:,}; run `reactvl retrieve --overwrite`"
            )

    def table(self, columns: list[str] | None = None) -> "pa.Table":
        """The pairs, all columns or those named; see `retrieve.tables.PAIRS` for what each holds."""
        import pyarrow.parquet as pq

        return pq.read_table(self.folder / FILE, columns=columns)

    @property
    def classes(self) -> list[str]:
        """Class names; a class's id is its place. Two classes of one name stay two."""
        return list(self.manifest.options["classes"])

    @property
    def model(self) -> ModelId:
        """The model whose vectors the pairs were found with."""
        return self.manifest.model

    @functools.cached_property
    def embeddings(self) -> Embeddings:
        """The embeddings that the pairs were chosen from; ReactvlError when they are gone or not the same any more."""
        return Embeddings.of_input(self.folder, self.manifest)

    @property
    def shards(self) -> Path | None:
        """The folder of shards that `materialize` wrote; None without."""
        return self.folder / SHARDS if self.manifest.options.get("materialize") else None

    def by_class(self, name: str | int) -> ClassPairs:
        """The pairs of one class by its name (all classes of that name) or id, best first; `.show()` shows them.
        ReactvlError when there is no such class."""
        import pyarrow.parquet as pq

        classes = self.classes
        if isinstance(name, str):
            wanted = [number for number, known in enumerate(classes) if known == name]
        else:
            wanted = [name] if 0 <= name < len(classes) else []
        if not wanted:
            raise ReactvlError(
                f"{self.folder}: has no class {name!r}; it has {len(classes)}, such as {', '.join(classes[:3])}"
            )
        chosen = pq.read_table(self.folder / FILE, filters=[("class_id", "in", wanted)])
        return ClassPairs(self, classes[wanted[0]], chosen.combine_chunks())

    def show(self, n: int = 6, classes: Sequence[str | int] | None = None) -> Gallery:
        """The first `n` pairs of these classes (names or ids; default: the first dozen) with captions and scores."""
        asked = list(range(min(len(self.classes), CLASSES))) if classes is None else list(classes)
        shelves = []
        for name in asked:
            of_class = self.by_class(name)
            count = f"{len(of_class):,} pair{'s' if len(of_class) != 1 else ''}"
            shelves.append(of_class.shelf(f"{of_class.name} ({count})", n)._replace(more=0))
        left = len(self.classes) - len(asked)
        hint = f'{left:,} more classes: .by_class("{self.classes[-1]}").show()' if left > 0 and classes is None else ""
        return Gallery(f"{len(self):,} pairs of {len(self.classes):,} classes, each from its best", shelves, hint)

    def read_image(self, pair: int) -> bytes:
        """The encoded image of pair number `pair`, read from its shard; ReactvlError for a pool of URLs."""
        if not 0 <= pair < len(self):
            raise IndexError(f"pair {pair} of {len(self)}")
        self.embeddings.require_pictures(self.folder / FILE)
        return self.embeddings.read_bytes(**self._places[pair])

    @functools.cached_property
    def _places(self) -> list[dict]:
        return self.table(["shard", "offset", "size"]).to_pylist()

    def __len__(self) -> int:
        return self._rows

    def __repr__(self) -> str:
        return f"Pairs({str(self.folder)!r}: {len(self):,} pairs, {len(self.classes):,} classes)"
