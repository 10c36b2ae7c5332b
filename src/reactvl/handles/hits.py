"""What a search found: a list of pairs that shows itself."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from reactvl.handles.showing import Gallery, Item, Shelf, picture_of, place_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from reactvl.handles.embeddings import Embeddings

SHOWN = 24


class Hit(NamedTuple):
    """A pair that a search found."""

    score: float
    caption: str
    shard: str
    key: str
    url: str | None
    part: int
    row: int


class HitList(list[Hit]):
    """Hits, best first. A list like any other; as the last line of a notebook's cell its pictures are seen.

    `asked` says in words what was searched for. A slice is a HitList too.
    """

    def __init__(self, hits: Iterable[Hit], embeddings: "Embeddings", asked: str = ""):
        super().__init__(hits)
        self.embeddings, self.asked = embeddings, asked

    @property
    def captions(self) -> list[str]:
        return [hit.caption for hit in self]

    def images(self) -> "list[Image]":
        """The pictures as PIL images, in their order; ReactvlError for a pool of URLs, and for one that is damaged."""
        self.embeddings.require_pictures()
        return [picture_of(lambda hit=hit: self._read(hit), place_of(hit.shard, hit.key)) for hit in self]

    def show(self, n: int = SHOWN) -> Gallery:
        """The first `n` with captions and scores."""
        pictures = self.embeddings.has_pictures
        items = [
            Item(
                hit.caption or "",
                f"{hit.score:.3f}",
                place_of(hit.shard, hit.key),
                (lambda hit=hit: self._read(hit)) if pictures else None,
                hit.url,
            )
            for hit in self[:n]
        ]
        title = f"{self.asked}: {len(self):,} of {len(self.embeddings):,} pairs"
        return Gallery(title, [Shelf("", items, len(self) - len(items))])

    def _read(self, hit: Hit) -> bytes:
        return self.embeddings.read_image(hit.part, hit.row)

    def __getitem__(self, at):
        found = super().__getitem__(at)
        return HitList(found, self.embeddings, self.asked) if isinstance(at, slice) else found

    def __repr__(self) -> str:
        return repr(self.show(len(self)))

    def _repr_html_(self) -> str:
        return self.show(len(self))._repr_html_()
