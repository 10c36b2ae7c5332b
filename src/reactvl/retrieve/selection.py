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
- With `classes_per_pair="margin"` a pair must also fit its class better than the next best one by a margin, in the same
  standard deviations: what lies between two classes serves neither. With `"many"` every class that found a pair may
  have it.
- One picture is chosen once: where its score is best. What one picture is, the caller says: equal bytes (sha256), or
  near duplicates too (duplicates.py). With `"many"` this holds within a class. Classes of one name share what their
  name wins, dealt in turns, so that the second of ImageNet's two "missile" does not stay empty.
- A pair that was picked by hand is in its class, before all others, however it scores and whatever else it fits. Only
  exclusion goes before it, and of a picture that was picked twice for a class one is chosen. What it is a copy of
  goes to nobody else, but to another class that it was picked for as well.
- At most `per_class` pairs a class, or those picked by hand if they are more; with `balance` also at most so many times
  the pairs of the median class.

Everything here is a function of arrays, in exact order; nothing depends on how rows are split or threads run.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from reactvl.search.hits import Hits

KEPT, OVER_CAP, DUPLICATE, BELOW_MINIMUM, OTHER_CLASS, EXCLUDED = range(6)
NEAR_DUPLICATE, AMBIGUOUS, FILTERED, EVALUATION_IMAGE, OVER_BALANCE = range(6, 11)
FATES = (
    "kept",
    "over cap",
    "duplicate",
    "below minimum",
    "other class",
    "excluded",
    "near duplicate",
    "ambiguous",
    "filtered",
    "evaluation image",
    "over balance",
)
CLASSES_PER_PAIR = ("one", "margin", "many")
ABSOLUTE = (EXCLUDED, EVALUATION_IMAGE)  # what keeps out even a pair that was picked by hand
MARGIN = 0.5  # standard deviations: with `margin`, what a pair's class must be ahead of the next best


@dataclass(frozen=True)
class Candidates:
    """Every (name, row) that some query found, each once, by name and row. All arrays have one length n.

    name: int64, the number of a class name; row: int64 over all parts; score: float64; fit: bool, False for rows that
    another name fits better; picture: int64, equal for rows of equal image bytes; excluded: bool, listed by --exclude;
    weak: bool, True for scores under the minimum. None where the option is off: near: int64, equal for near duplicates,
    and for every two rows of equal picture; lead: float64, the score less the best score of any other name; leaked:
    bool, an evaluation image; filtered: bool, --where does not hold; picked: int64, the turn of those that were picked by
    hand, from 0, -1 for all others.
    """

    name: np.ndarray
    row: np.ndarray
    score: np.ndarray
    fit: np.ndarray
    picture: np.ndarray
    excluded: np.ndarray
    weak: np.ndarray
    near: np.ndarray | None = None
    lead: np.ndarray | None = None
    leaked: np.ndarray | None = None
    filtered: np.ndarray | None = None
    picked: np.ndarray | None = None

    @property
    def by_hand(self) -> np.ndarray:
        """bool (n,): picked by hand."""
        return np.zeros(len(self.row), dtype=bool) if self.picked is None else self.picked >= 0

    @property
    def turn(self) -> np.ndarray:
        """int64 (n,): the turn of those that were picked by hand; all others come after them, at once."""
        last = np.iinfo(np.int64).max
        return np.full(len(self.row), last) if self.picked is None else np.where(self.by_hand, self.picked, last)


@dataclass(frozen=True)
class Selection:
    """What became of the candidates: fate int8 (n,); class_id and rank int64 (n,), -1 for those that won no picture;
    winner int64 (n,), the candidate that won the picture (its own place if it did), -1 for those that never ran."""

    fate: np.ndarray
    class_id: np.ndarray
    rank: np.ndarray
    winner: np.ndarray


def candidate_codes(found: list[Hits], name_of_query: np.ndarray, rows: int) -> np.ndarray:
    """Sorted codes `name * rows + row` of all that was found, each once."""
    codes = [name_of_query[hits.query] * np.int64(rows) + hits.row for hits in found]
    return np.unique(np.concatenate(codes)) if codes else np.empty(0, np.int64)


def select(
    candidates: Candidates,
    name_of_class: np.ndarray,
    per_class: int,
    *,
    classes_per_pair: str = "one",
    margin: float = MARGIN,
    balance: float | None = None,
) -> Selection:
    """Choose at most `per_class` candidates for every class, and all that were picked for it.

    name_of_class: int64 (classes,), equal for equal names. classes_per_pair: one of CLASSES_PER_PAIR; "margin" wants
    `candidates.lead` of `margin` or more, "many" passes over `candidates.fit`. balance: no class gets more than this
    many times the pairs of the median class (of those that have any), rounded down, and at least one.
    Raises ValueError for another word and for a margin without leads.
    """
    if classes_per_pair not in CLASSES_PER_PAIR or (classes_per_pair == "margin" and candidates.lead is None):
        raise ValueError(f"classes_per_pair is {classes_per_pair!r}, wanted one of {CLASSES_PER_PAIR} (margin: leads)")
    count = len(candidates.row)
    by_hand = candidates.by_hand
    fate = np.full(count, KEPT, dtype=np.int8)
    class_id, rank, winner = (np.full(count, -1, dtype=np.int64) for _ in range(3))
    for reason, barred in _bars(candidates, classes_per_pair, margin):  # the last reason is the one that is told
        fate[barred if reason in ABSOLUTE else barred & ~by_hand] = reason

    running = np.flatnonzero(fate == KEPT)
    keys = (candidates.row, candidates.name, -candidates.score, candidates.turn)
    running = running[np.lexsort([key[running] for key in keys])]  # picked ones in their turns, then the best first
    picture = _pictures(candidates, running, within_name=classes_per_pair == "many")
    _, first, picture = np.unique(picture, return_index=True, return_inverse=True)
    winner[running] = won_by = running[first[picture]]
    copies = np.where(candidates.picture[won_by] == candidates.picture[running], DUPLICATE, NEAR_DUPLICATE)
    fate[running] = np.where(candidates.row[won_by] == candidates.row[running], OTHER_CLASS, copies)

    won = running[np.sort(first)]
    won = won[np.argsort(candidates.name[won], kind="stable")]  # by name, in the order in which they run
    edges = np.searchsorted(candidates.name[won], np.arange(name_of_class.max(initial=-1) + 2))
    for number, classes in enumerate(classes_of_names(name_of_class)):
        winners = won[edges[number] : edges[number + 1]]
        turn = np.arange(len(winners))
        class_id[winners] = classes[turn % len(classes)]
        rank[winners] = turn // len(classes)
    fate[won] = np.where((rank[won] < per_class) | by_hand[won], KEPT, OVER_CAP)
    if balance is not None:
        cap = balanced_cap(np.bincount(class_id[won], minlength=len(name_of_class)), per_class, balance)
        fate[won[(rank[won] >= cap) & (rank[won] < per_class) & ~by_hand[won]]] = OVER_BALANCE
    return Selection(fate, class_id, rank, winner)


def _bars(candidates: Candidates, classes_per_pair: str, margin: float) -> Iterator[tuple[int, np.ndarray]]:
    """(fate, bool (n,)) of what keeps candidates from running, the most telling reason last."""
    fit = candidates.fit if classes_per_pair != "many" else np.ones_like(candidates.fit)
    yield BELOW_MINIMUM, candidates.weak
    if classes_per_pair == "margin":
        yield AMBIGUOUS, candidates.lead < margin
    yield OTHER_CLASS, ~fit
    for reason, barred in ((FILTERED, candidates.filtered), (EVALUATION_IMAGE, candidates.leaked)):
        if barred is not None:
            yield reason, barred
    yield EXCLUDED, candidates.excluded


def _pictures(candidates: Candidates, running: np.ndarray, within_name: bool) -> np.ndarray:
    """int64 (running,): what is chosen once; with `within_name`, once for every name. `running` begins with those that
    were picked, and of a picture that was picked for several names each name has its own."""
    picture = (candidates.picture if candidates.near is None else candidates.near)[running]
    _, first, picture = np.unique(picture, return_index=True, return_inverse=True)
    name = candidates.name[running]
    own = candidates.by_hand[running] & (name[first[picture]] != name)
    apart = name * np.int64(max(len(running), 1)) + picture
    return apart if within_name else np.where(own, len(first) + apart, picture)


def balanced_cap(won: np.ndarray, per_class: int, balance: float) -> int:
    """The cap that keeps every class within `balance` times the median of those that have a pair; `won` int64
    (classes,) counts what each could have."""
    filled = np.minimum(won[won > 0], per_class)
    return min(per_class, max(1, int(balance * np.median(filled)))) if len(filled) else per_class


def shortfall(selection: Selection, classes: int, per_class: int) -> np.ndarray:
    """int64 (classes,): how many pairs each class lacks of `per_class`; a deeper search may fill them."""
    kept = selection.class_id[selection.fate == KEPT]
    return per_class - np.bincount(kept, minlength=classes)


def fate_counts(fate: np.ndarray) -> dict[str, int]:
    """How many there are of each fate, all of FATES in order."""
    return dict(zip(FATES, np.bincount(fate, minlength=len(FATES)).tolist(), strict=True))


def classes_of_names(name_of_class: np.ndarray) -> list[np.ndarray]:
    """The class ids of every name, ascending."""
    order = np.argsort(name_of_class, kind="stable")
    return np.split(order, np.searchsorted(name_of_class[order], np.arange(1, name_of_class.max(initial=0) + 1)))


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
