"""From what every query found to the pairs of each class.

How a pair is ranked, and why:

- A pair's score for a class is its similarity to the class's *mean* query over the templates, as prompt ensembles do: a
  template that happens to suit one picture cannot carry it in.
- Similarities of the modes cannot be compared as they are (caption to caption is higher than caption to picture), nor
  those of two classes (some prompts are near everything). So each becomes a z-score: how many standard deviations it
  lies over the similarities of the same mean query to a sample of the pool. The modes' z-scores are joined as
  the length of the vector that they make, those below 0 as 0: the distance from the pool of independent measurements.
  Either mode can carry a pair in, as in a union; both together carry it further; and a mode whose vectors tell classes
  apart badly has small z-scores and does no harm. (On the demo's pool, where pictures are known badly to the base
  model, this chooses as many right pairs as captions alone; the mean of the modes chooses 5% fewer.)
- A pair serves the class that it fits best of *all* classes, by that same score, or none (`rivals="all"`); with
  `rivals="finders"` only classes whose own queries found the pair compete.
- One picture (by sha256) is chosen once: where its score is best. Classes of one name share what their name wins, dealt
  in turns, so that the second of ImageNet's two "missile" does not stay empty.

Everything here is a function of arrays, in exact order; nothing depends on how rows are split or threads run.
"""

from dataclasses import dataclass

import numpy as np

from reactvl.search.hits import Hits

KEPT, OVER_CAP, DUPLICATE, BELOW_MINIMUM, OTHER_CLASS, EXCLUDED = range(6)
FATES = ("kept", "over cap", "duplicate", "below minimum", "other class", "excluded")


@dataclass(frozen=True)
class Candidates:
    """Every (name, row) that some query found, each once, by name and row. All arrays have one length n.

    name: int64, the number of a class name; row: int64 over all parts; score: float64; fit: bool, False for rows that
    another name fits better; picture: int64, equal for rows of equal image bytes; excluded: bool; weak: bool, True for
    scores under the minimum.
    """

    name: np.ndarray
    row: np.ndarray
    score: np.ndarray
    fit: np.ndarray
    picture: np.ndarray
    excluded: np.ndarray
    weak: np.ndarray


@dataclass(frozen=True)
class Selection:
    """What became of the candidates: fate int8 (n,); class_id and rank int64 (n,), -1 for those that won no picture."""

    fate: np.ndarray
    class_id: np.ndarray
    rank: np.ndarray


def candidate_codes(found: list[Hits], name_of_query: np.ndarray, rows: int) -> np.ndarray:
    """Sorted codes `name * rows + row` of all that was found, each once."""
    codes = [name_of_query[hits.query] * np.int64(rows) + hits.row for hits in found]
    return np.unique(np.concatenate(codes)) if codes else np.empty(0, np.int64)


def select(candidates: Candidates, name_of_class: np.ndarray, per_class: int) -> Selection:
    """Choose at most `per_class` candidates for every class. name_of_class: int64 (classes,), equal for equal names."""
    count = len(candidates.row)
    fate = np.full(count, EXCLUDED, dtype=np.int8)
    class_id, rank = np.full(count, -1, dtype=np.int64), np.full(count, -1, dtype=np.int64)
    fate[~candidates.excluded & ~candidates.fit] = OTHER_CLASS

    fate[~candidates.excluded & candidates.fit & candidates.weak] = BELOW_MINIMUM

    running = np.flatnonzero(~candidates.excluded & candidates.fit & ~candidates.weak)
    order = np.lexsort((candidates.row[running], candidates.name[running], -candidates.score[running]))
    running = running[order]  # best first
    _, first, picture = np.unique(candidates.picture[running], return_index=True, return_inverse=True)
    winner = running[first[picture]]  # of each one's picture
    fate[running] = np.where(candidates.name[winner] == candidates.name[running], DUPLICATE, OTHER_CLASS)

    won = running[np.sort(first)]
    won = won[np.argsort(candidates.name[won], kind="stable")]  # by name, best first
    edges = np.searchsorted(candidates.name[won], np.arange(name_of_class.max(initial=-1) + 2))
    for number, classes in enumerate(classes_of_names(name_of_class)):
        winners = won[edges[number] : edges[number + 1]]
        turn = np.arange(len(winners))
        class_id[winners] = classes[turn % len(classes)]
        rank[winners] = turn // len(classes)
        fate[winners] = np.where(rank[winners] < per_class, KEPT, OVER_CAP)
    return Selection(fate, class_id, rank)


def classes_of_names(name_of_class: np.ndarray) -> list[np.ndarray]:
    """The class ids of every name, ascending."""
    order = np.argsort(name_of_class, kind="stable")
    return np.split(order, np.searchsorted(name_of_class[order], np.arange(1, name_of_class.max(initial=0) + 1)))


def numbered(names: list[str]) -> np.ndarray:
    """int64 (classes,): the number of each class's name, in order of first appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def fates_of_hits(
    hits: Hits,
    codes: np.ndarray,
    selection: Selection,
    class_of_query: np.ndarray,
    name_of_class: np.ndarray,
    rows: int,
) -> np.ndarray:
    """int8 (n,): what became of each hit; a hit whose pair is no candidate lay below the minimum.

    A pair that was dealt to a class of the same name says "other class" for the hits of its namesakes.
    """
    if not len(codes):
        return np.full(len(hits), BELOW_MINIMUM, dtype=np.int8)
    class_id = class_of_query[hits.query]
    code = name_of_class[class_id] * np.int64(rows) + hits.row
    at = np.searchsorted(codes, code).clip(max=len(codes) - 1)
    fate = selection.fate[at].copy()
    fate[(selection.class_id[at] >= 0) & (selection.class_id[at] != class_id)] = OTHER_CLASS
    fate[codes[at] != code] = BELOW_MINIMUM
    return fate
