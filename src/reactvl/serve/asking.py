"""What a search asks for and what it answers: plain values that the engine, the HTTP service and its client share."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Keys = Literal["image", "text", "both"]


@dataclass(frozen=True, eq=False, slots=True)
class Term:
    """One part of a query: exactly one of a text, a picture, a pair of the pool and a vector, with its weight.

    pixels: uint8 (3, H, W), as `Explorer.pixels` gives them. pair: (part, row). vector: float32 (dim,), of any length but 0.
    weight: a minus-term's is below 0. Each term is brought to length 1 before the weights apply.
    """

    weight: float = 1.0
    text: str | None = None
    pixels: "Tensor | None" = None
    pair: tuple[int, int] | None = None
    vector: "np.ndarray | None" = None


@dataclass(frozen=True, eq=False, slots=True)
class Ask:
    """One search: its terms, what they are compared with, and which of what is found is wanted.

    keys: the pictures' vectors, the captions', or both. min_similarity: on `Found.similarity`. class_id: only among the
    retrieved pairs of this class. caption: only pairs whose caption holds this phrase, among the best 10,000. dedup: of
    equal and nearly equal pictures only the best. model: "base", or a customized model that re-ranks the base's nearest.
    """

    terms: tuple[Term, ...]
    keys: Keys = "image"
    k: int = 40
    offset: int = 0
    min_similarity: float | None = None
    class_id: int | None = None
    caption: str | None = None
    dedup: bool = True
    model: str = "base"


class Found(msgspec.Struct, gc=False):
    """A pair that was found. `similarity` is the cosine that it is ranked by (for keys "both", where z-scores rank, the
    picture's); the sides' own are None where they were not computed or the pool has no such vectors."""

    part: int
    row: int
    similarity: float | None
    image_similarity: float | None
    text_similarity: float | None
    class_ids: list[int]  # of the retrieved pairs' classes that have it
    caption: str | None
    shard: str | None
    key: str | None
    url: str | None
    width: int | None
    height: int | None
    sha256: str | None  # hex


class Answer(msgspec.Struct):
    """The hits of one search, best first. `facets`: (class, pairs) over the best 1,000 at most, most frequent first.
    `recall`: the index's, where one answered (`exact` is False then). `examined`: rows looked at by filters.
    `milliseconds`: "encode" and "search" of the whole batch that it was answered in, "metadata" of its own."""

    hits: list[Found]
    facets: list[tuple[int, int]]
    exact: bool
    recall: float | None
    examined: int
    notes: list[str]
    milliseconds: dict[str, float]


class Above(msgspec.Struct):
    """How many pairs reach a similarity: the number, or an estimate with its 95% interval."""

    threshold: float
    count: int
    low: int
    high: int


class Counted(msgspec.Struct):
    """The pool by its similarity to a query: a histogram of `pairs` rows between `edges` (one more than `counts`), and how
    many reach each threshold. Not `exact`: estimated from a sample of the pool, the histogram scaled to it."""

    pairs: int
    edges: list[float]
    counts: list[int]
    above: list[Above]
    exact: bool
