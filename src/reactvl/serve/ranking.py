"""One search from its query to the rows that it shows: ranked on its sides, deepened until there are enough."""

from dataclasses import dataclass, field

import numpy as np

from reactvl.serve.asking import Ask
from reactvl.serve.metadata import Metadata
from reactvl.serve.sides import Side
from reactvl.serve.sifting import sifted

FACETS = 1000  # best rows whose classes are counted
FUSED = 1024  # candidates of each side that are joined: as many on every page, so that pages fit together
LOOKED_AT = 10_000  # best rows that filters, and the search for more than copies, go through
DEEPEST = 100_000  # rows, with those of the pages before, that one search may ask for


@dataclass
class Ranking:
    """Rows of one search, best first, as deep as it has gone.

    queries: a unit vector (dim,) for each side. rows: int64 (n,) over all parts. ranked: float64 (n,), what they are ranked
    by, falling; by_side: their similarities on each side, NaN where there is none; `similarity` is the one that is told.
    shown: places of the rows to show; passed: of those that the filters let pass.
    """

    ask: Ask
    queries: dict[str, np.ndarray]
    keep: int  # rows that the sifting is to find: those of the page, and of the pages before
    depth: int
    complete: bool = False  # there are no more rows, or no more of them is looked at
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    ranked: np.ndarray = field(default_factory=lambda: np.empty(0))
    by_side: dict[str, np.ndarray] = field(default_factory=dict)
    shown: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    passed: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    examined: int = 0
    notes: list[str] = field(default_factory=list)
    done: bool = False

    @property
    def told(self) -> str:
        """The side whose similarity is told."""
        return "text" if self.ask.keys == "text" else "image"

    @property
    def similarity(self) -> np.ndarray:
        return self.by_side[self.told]

    def place(self, rows: np.ndarray, by_side: dict[str, np.ndarray], ranked: np.ndarray, complete: bool) -> None:
        """Take rows with their scores: in falling order, ties by the lower row, without those that have no score."""
        order = np.lexsort((rows, -ranked))
        order = order[np.isfinite(ranked[order])]
        self.rows, self.ranked = rows[order], ranked[order]
        self.by_side = {name: scores[order] for name, scores in by_side.items()}
        self.complete = complete

    def sift(self, metadata: Metadata) -> None:
        """Choose what is shown; not `done` where a deeper search may bring more."""
        rows, least = self.rows, self.ask.min_similarity
        above = np.arange(len(rows)) if least is None else np.flatnonzero(self.similarity >= least)
        if least is not None and self.ask.keys != "both" and len(above) < len(rows):
            self.complete = True  # what lies deeper is less similar still
        most = max(LOOKED_AT, self.keep)
        shown, passed, self.examined = sifted(
            rows[above[:most]], metadata, self.keep, caption=self.ask.caption, dedup=self.ask.dedup
        )
        self.shown, self.passed = above[shown], above[passed]
        enough, ended = len(shown) >= self.keep, len(rows) >= most
        self.done = enough or self.complete or ended
        if ended and not enough and not self.complete:
            self.notes.append(f"only the {most:,} best pairs were looked at")

    def deepen(self, rows: int) -> None:
        """Go four times as deep, within what is looked at and the pool's rows."""
        self.depth = min(4 * self.depth, max(LOOKED_AT, self.keep), max(rows, 1))


def first_depth(keep: int, ask: Ask, facets: bool) -> int:
    """How many rows a search finds at first: a power of two times 64, so that searches of a batch go together."""
    wanted = keep + (keep // 4 + 8 if ask.dedup else 0)
    if ask.keys == "both" or ask.caption is not None or facets:
        wanted = max(wanted, FUSED)
    depth = 64
    while depth < wanted:
        depth *= 2
    return depth


def fused(side_scores: dict[str, np.ndarray], spreads: dict[str, tuple[float, float]]) -> np.ndarray:
    """float64 (n,): the z-scores of all sides joined as `retrieve` joins them: the length of the vector of those above 0,
    or the largest where none is. A side without a score for a row says nothing about it."""
    scores = np.stack([(side_scores[name] - mean) / deviation for name, (mean, deviation) in spreads.items()])
    scores = np.where(np.isnan(scores), -np.inf, scores)
    length = np.sqrt((np.maximum(scores, 0) ** 2).sum(axis=0))
    return np.where(length > 0, length, scores.max(axis=0))


def both(ranking: Ranking, sides: dict[str, Side], candidates: list[np.ndarray], complete: bool) -> None:
    """Rank the candidates of both sides by both."""
    rows = np.unique(np.concatenate(candidates))
    if not len(rows):
        ranking.place(rows, {name: np.empty(0) for name in sides}, np.empty(0), complete)
        return
    scores = {name: side.scores(ranking.queries[name], rows) for name, side in sides.items()}
    spreads = {name: side.spread(ranking.queries[name]) for name, side in sides.items()}
    ranking.place(rows, scores, fused(scores, spreads), complete)
