"""Between the API's words and the engine's: requests become `Ask`s, answers become what JSON holds (see schemas.py)."""

import base64
import binascii
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from reactvl.manifest import ReactvlError
from reactvl.serve import schemas
from reactvl.serve.asking import Answer, Ask, Counted, Term
from reactvl.serve.lean import Refused

KINDS = ("text", "image", "pair", "vector")
Decode = Callable[[str | bytes, str], Awaitable[Any]]  # (picture, its place in the request) -> pixels


async def asked(search: schemas.Search, decode: Decode, max_k: int, place: str = "query") -> Ask:
    """The engine's form of a search; Refused with 422 for a term that is not exactly one thing, a k above the limit."""
    terms = [await _term(term, decode, f"{place}.{number}") for number, term in enumerate(search.query)]
    return chosen(tuple(terms), search, max_k)


def chosen(terms: tuple[Term, ...], choices: schemas.Choices, max_k: int) -> Ask:
    """An `Ask` of these terms with the rest of a request's words."""
    if choices.k > max_k:
        raise Refused(422, f"k: {choices.k:,} is above the limit of {max_k:,} (`reactvl serve --max-k`)")
    return Ask(
        terms,
        choices.keys,
        choices.k,
        choices.offset,
        choices.min_similarity,
        choices.class_id,
        choices.caption,
        choices.dedup,
        choices.model,
    )


async def _term(term: schemas.Term, decode: Decode, place: str) -> Term:
    given = [kind for kind in KINDS if getattr(term, kind) is not None]
    if len(given) != 1:
        raise Refused(422, f"{place}: give exactly one of {', '.join(KINDS)}, not {' and '.join(given) or 'none'}")
    if given == ["image"]:
        return Term(term.weight, pixels=await decode(term.image, f"{place}.image"))
    vector = None if term.vector is None else as_vector(term.vector, f"{place}.vector")
    return Term(term.weight, text=term.text, pair=term.pair, vector=vector)


def as_vector(numbers: list[float], place: str) -> np.ndarray:
    """float32 (dim,); Refused where float32 cannot hold it or it has no direction."""
    with np.errstate(over="ignore"):
        vector = np.asarray(numbers, dtype=np.float32)
        length = float(np.linalg.norm(vector.astype(np.float64)))
    if not np.isfinite(length) or length == 0:
        raise Refused(422, f"{place}: must be finite in float32 and not all zeros")
    return vector


def from_base64(text: str, place: str) -> bytes:
    """The bytes of base64, alone or as a `data:` URL; Refused for anything else."""
    if text.startswith("data:"):
        head, _, text = text.partition(",")
        if not head.endswith(";base64"):
            raise Refused(422, f"{place}: a data URL must say ;base64")
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as fault:
        raise Refused(422, f"{place}: is no base64 ({fault})") from None


def found(answer: Answer) -> dict[str, Any]:
    """`schemas.Found` of an answer."""
    return {
        "hits": answer.hits,
        "facets": [{"class_id": class_id, "count": count} for class_id, count in answer.facets],
        "exact": answer.exact,
        "recall": answer.recall,
        "examined": answer.examined,
        "notes": answer.notes,
        "milliseconds": answer.milliseconds,
    }


def found_or_detail(answer: Answer | Exception) -> dict[str, Any]:
    """The same for one of many: a refused one says why."""
    return found(answer) if isinstance(answer, Answer) else {"detail": why(answer)}


def counted(count: Counted) -> dict[str, Any]:
    """`schemas.Counted` of a count."""
    return {
        "pairs": count.pairs,
        "histogram": {"edges": count.edges, "counts": count.counts},
        "above": count.above,
        "exact": count.exact,
    }


def why(fault: Exception) -> str:
    return str(fault) if isinstance(fault, ReactvlError) else BROKEN


BROKEN = "the service failed on this request; its own log says why"
