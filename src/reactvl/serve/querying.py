"""From the terms of a search to query vectors: checked, encoded together, weighed and summed."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reactvl.manifest import ReactvlError
from reactvl.serve.asking import Ask, Term

if TYPE_CHECKING:
    from reactvl.models import Model

TEXT_LETTERS = 8192  # of one text: a tower reads the first few dozen words
TERMS = 32  # of one search
REMEMBERED = 16_384  # texts whose vectors are kept: 32 MiB of 512 dimensions
CANCELLED = 1e-4  # a weighted sum of unit vectors that is shorter points nowhere

Outcome = np.ndarray | ReactvlError


class Towers:
    """The towers of one model on one device; the vectors of texts that were asked for before are kept."""

    def __init__(self, model: "Model", device: str = "auto", precision: str = "auto"):
        from reactvl.models.encoder import Encoder

        self.model = model
        self.encoder = Encoder(model, device=device, precision=precision)
        self.shape = (3, model.image_size, model.image_size)
        self._known: OrderedDict[str, np.ndarray] = OrderedDict()

    def texts(self, texts: Sequence[str]) -> dict[str, Outcome]:
        """The unit vector float32 (dim,) of every text; those not yet known are encoded in one batch."""
        wanted = list(dict.fromkeys(texts))
        fresh = [text for text in wanted if text not in self._known]
        made = each(fresh, lambda some: self.encoder.texts([readable(text) for text in some]), "text")
        found: dict[str, Outcome] = {}
        for text in wanted:
            found[text] = made[text] if text in made else self._known[text]
        for text, vector in made.items():
            if not isinstance(vector, ReactvlError):
                self._known[text] = vector
        for text in wanted:
            if text in self._known:
                self._known.move_to_end(text)
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return found

    def pictures(self, pixels: Sequence[Any]) -> list[Outcome]:
        """The unit vector float32 (dim,) of every picture, uint8 tensors (3, H, W)."""
        import torch

        made = each(
            range(len(pixels)), lambda some: self.encoder.images(torch.stack([pixels[at] for at in some])), "picture"
        )
        return [made[at] for at in range(len(pixels))]

    def options(self) -> dict[str, Any]:
        """How `pool.images.to_pixels` makes this model's pictures."""
        return {
            "size": self.model.image_size,
            "resize_mode": self.model.resize_mode,
            "interpolation": self.model.interpolation,
            "fill": self.model.config["preprocess_cfg"].get("fill_color", 0),
        }


def each(items: Sequence[Any], encode: Callable[[Sequence[Any]], np.ndarray], what: str) -> dict[Any, Outcome]:
    """The vector of every item, encoded together; where that fails each alone, so that a bad one fails alone."""
    if not len(items):
        return {}
    try:
        return dict(zip(items, checked_vectors(encode(items), what), strict=True))
    except Exception as fault:  # a tokenizer's or a tower's; what it says goes to the one who sent the item
        if len(items) == 1:
            reason = (str(fault).splitlines() or [type(fault).__name__])[0]
            return {items[0]: ReactvlError(f"the model cannot encode this {what} ({reason})")}
    return {item: outcome for one in items for item, outcome in each([one], encode, what).items()}


def checked_vectors(vectors: np.ndarray, what: str) -> list[Outcome]:
    return [
        vector if np.isfinite(vector).all() else ReactvlError(f"the model gives no finite vector of this {what}")
        for vector in vectors
    ]


def readable(text: str) -> str:
    """The text without lone surrogates, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode()


def check_ask(ask: Ask, dim: int, shape: tuple[int, int, int]) -> None:
    """ReactvlError for terms, numbers or words that no search can have."""
    if not ask.terms:
        raise ReactvlError("the query is empty: give a text, an image, a pair or a vector")
    if len(ask.terms) > TERMS:
        raise ReactvlError(f"the query has {len(ask.terms)} terms; at most {TERMS} are taken")
    if ask.keys not in ("image", "text", "both"):
        raise ReactvlError(f"keys {ask.keys!r}: use image, text or both")
    if ask.k < 1 or ask.offset < 0:
        raise ReactvlError(f"k is {ask.k} and offset {ask.offset}, wanted 1 or more and 0 or more")
    if ask.min_similarity is not None and not np.isfinite(ask.min_similarity):
        raise ReactvlError(f"min_similarity is {ask.min_similarity}, wanted a number")
    for term in ask.terms:
        check_term(term, dim, shape)


def check_term(term: Term, dim: int, shape: tuple[int, int, int]) -> None:
    """ReactvlError for a term that is not exactly one thing, or is not of this model's shape."""
    given = [name for name in ("text", "pixels", "pair", "vector") if getattr(term, name) is not None]
    if len(given) != 1:
        raise ReactvlError(f"a term of the query has {' and '.join(given) or 'nothing'}; give one of text, image, pair "
                           "and vector")  # fmt: skip
    if not np.isfinite(term.weight):
        raise ReactvlError(f"a weight is {term.weight}, wanted a number")
    if term.text is not None and not 0 < len(term.text.strip()) <= len(term.text) <= TEXT_LETTERS:
        raise ReactvlError(f"a text of {len(term.text):,} letters; 1 to {TEXT_LETTERS:,} are taken")
    if term.pixels is not None and (tuple(term.pixels.shape) != shape or str(term.pixels.dtype) != "torch.uint8"):
        raise ReactvlError(f"pixels of shape {tuple(term.pixels.shape)}, {term.pixels.dtype}; wanted {shape}, uint8")
    if term.vector is not None:
        vector = np.asarray(term.vector)
        if vector.shape != (dim,):
            raise ReactvlError(f"a query vector of shape {vector.shape}; these embeddings have {dim} dimensions")
        if not np.isfinite(vector).all() or not vector.any():
            raise ReactvlError("a query vector holds a NaN, an infinity, or nothing but zeros")


def weighed(terms: Sequence[tuple[float, np.ndarray]]) -> np.ndarray:
    """float32 (dim,): the weighted sum of the vectors, each brought to length 1 before and the sum after it.

    Raises ReactvlError when they cancel each other out.
    """
    total, weights = 0.0, 0.0
    for weight, vector in terms:
        vector = np.asarray(vector, np.float64)
        vector = vector / np.abs(vector).max()  # the square of a tiny or a huge one is none
        total = total + weight * (vector / np.linalg.norm(vector))
        weights += abs(weight)
    length = float(np.linalg.norm(total))
    if not np.isfinite(length) or length <= CANCELLED * weights:
        raise ReactvlError("the terms of the query cancel each other out: change a weight")
    return (total / length).astype(np.float32)
