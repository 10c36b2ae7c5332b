"""The pairs of one class: a view that can be counted, walked through, sliced, taken as a table, and seen."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from reactvl.handles.showing import Gallery, Item, Shelf, picture_of, place_of

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL.Image import Image

    from reactvl.handles.pairs import Pairs

SHOWN = 24
COLUMNS = {  # the fields of a Pair, by the columns of pairs.parquet
    "class": "class_name",
    "rank": "rank",
    "score": "score",
    "similarity": "similarity",
    "TEXT": "caption",
    "prompt": "prompt",
    "mode": "mode",
    "shard": "shard",
    "key": "key",
    "URL": "url",
    "part": "part",
    "row": "row",
}


class Pair(NamedTuple):
    """A chosen pair: rank 0 is its class's best; `score` is what it was ranked by, `similarity` the cosine of the query
    that found it (None for words in its caption); shard and key are None in a pool of URLs."""

    class_name: str
    rank: int
    score: float
    similarity: float | None
    caption: str
    prompt: str
    mode: str
    shard: str | None
    key: str | None
    url: str | None
    part: int
    row: int


class ClassPairs:
    """Some of the pairs of a retrieved folder, by class and rank: what `Pairs.by_class` gives."""

    def __init__(self, pairs: "Pairs", name: str, table: "pa.Table"):
        self.pairs, self.name, self._rows = pairs, name, table

    def table(self, columns: list[str] | None = None) -> "pa.Table":
        """The rows of pairs.parquet, all columns or those named."""
        return self._rows if columns is None else self._rows.select(columns)

    @property
    def captions(self) -> list[str]:
        return [caption or "" for caption in self._rows["TEXT"].to_pylist()]

    def images(self) -> "list[Image]":
        """The pictures as PIL images, by rank; ReactvlError for a pool of URLs, and for one that is damaged."""
        self.pairs.embeddings.require_pictures(self.pairs.folder / "pairs.parquet")
        return [
            picture_of(lambda row=row: self._read(row), place_of(row["shard"], row["key"])) for row in self._places()
        ]

    def show(self, n: int = SHOWN) -> Gallery:
        """The first `n` by rank, with captions and scores."""
        title = f"{self.name}: {len(self):,} pair{'s' if len(self) != 1 else ''}, the best first"
        return Gallery(title, [self.shelf("", n)])

    def shelf(self, heading: str, n: int) -> Shelf:
        """The first `n` as a part of a larger gallery."""
        pictures = self.pairs.embeddings.has_pictures
        items = [
            Item(
                row["TEXT"] or "",
                f"{row['score']:.2f}",
                place_of(row["shard"], row["key"]),
                (lambda row=row: self._read(row)) if pictures else None,
                row["URL"],
            )
            for row in self._rows.slice(0, max(n, 0)).to_pylist()
        ]
        return Shelf(heading, items, len(self) - len(items))

    def _read(self, row: dict) -> bytes:
        return self.pairs.embeddings.read_bytes(row["shard"], row["offset"], row["size"])

    def _places(self) -> list[dict]:
        return self._rows.select(["shard", "key", "offset", "size"]).to_pylist()

    def __len__(self) -> int:
        return self._rows.num_rows

    def __iter__(self) -> Iterator[Pair]:
        return (Pair(**row) for row in self._rows.select(list(COLUMNS)).rename_columns(COLUMNS).to_pylist())

    def __getitem__(self, at: int | slice) -> "Pair | ClassPairs":
        if isinstance(at, slice):
            return ClassPairs(self.pairs, self.name, self._rows.take(list(range(len(self))[at])))
        place = range(len(self))[at]
        return next(iter(ClassPairs(self.pairs, self.name, self._rows.slice(place, 1))))

    def __repr__(self) -> str:
        return repr(self.show(len(self)))

    def _repr_html_(self) -> str:
        return self.show()._repr_html_()
