"""The page of a retrieved folder: what was chosen for every class, with pictures, and what was not and why.

The page stays small whatever the task's size: pictures share a budget, captions and names are clipped, long tables show
their ends, and the page says what it leaves out. A pool of URLs has no pictures: there the captions stand alone.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from markupsafe import Markup

from reactvl.manifest import ReactvlError
from reactvl.progress import progress
from reactvl.report.page import Page, code, data_table, fold, gallery, link, note, tiles
from reactvl.report.plots import histogram
from reactvl.report.svg import SERIES, SOFT, canvas, figure
from reactvl.report.thumbnails import thumbnail
from reactvl.retrieve.selection import DUPLICATE, FATES, KEPT, NEAR_DUPLICATE, Candidates, Selection

PER_CLASS = 8  # pictures shown of each
PER_FATE = 12
GROUPS, PER_GROUP = 24, 5  # groups of duplicates of each kind, and the left out of each group
SIDE = 80
BUDGETS = {
    "pairs": 6_000_000,
    "duplicates": 1_200_000,
    "dropped": 1_000_000,
}  # bytes of items; the page's limit is 12 MB
TABLE_ROWS = 2_000
CAPTION, NAME, ADDRESS = 160, 80, 100  # letters that are shown
BINS = 200

MEANING = {
    "duplicate": "Equal bytes (or, in a pool of URLs, an equal address) of a picture that is chosen where its score is best.",
    "near duplicate": "Nearly the picture of a pair that is chosen where its score is best.",
    "over cap": "Good enough, but their class was full: ask for more with per_class.",
    "below minimum": "Under min_similarity or min_score. Those that a similarity cut off were never candidates and are "
    "counted among the hits only.",
    "other class": "Found for this class, but they fit another one better, and a pair serves one class.",
    "excluded": "Listed in a file of --exclude.",
    "ambiguous": "Their best class is ahead of the next by less than the margin.",
    "filtered": "The condition of --where does not hold for them.",
    "evaluation image": "They are, or nearly are, pictures of --exclude-images: training on them would spoil the evaluation.",
    "over balance": "Their class has more pairs than the balance allows against the median class.",
}


class Similarities:
    """Histograms of the hits' similarities by mode, of all and of the chosen, in memory of the bins."""

    def __init__(self):
        self.edges = np.linspace(-1.0, 1.0, BINS + 1)
        self.found: dict[str, np.ndarray] = {}
        self.chosen: dict[str, np.ndarray] = {}

    def add(self, mode: str, score: np.ndarray, kept: np.ndarray) -> None:
        """Count float32 (n,) similarities; kept: bool (n,), whether the hit's pair was chosen. May be called piecewise."""
        score = np.clip(np.asarray(score, dtype=np.float64), -1.0, 1.0)
        for counts, values in ((self.found, score), (self.chosen, score[kept])):
            counts[mode] = counts.get(mode, 0) + np.histogram(values, self.edges)[0]


@dataclass(frozen=True)
class Findings:
    """What the page is made of.

    names: the class name of every number in `candidates.name`. pairs: pairs.parquet as a table. fates: hits of each
    fate. describe: metadata (shard, key, offset, size, caption, url; null where the pool has none) of rows int64 (n,)
    counted over all parts, in their order. read: (shard, offset, size) to the bytes of an image, None for a pool
    without pictures. asked: sentences about what was asked.
    """

    pool: str
    rows: int
    classes: Sequence[str]
    names: Sequence[str]
    per_class: int
    asked: str
    pairs: pa.Table
    few: Sequence[str]
    unnamed: float  # share of the chosen captions without their class's name
    fates: dict[str, int]
    similarities: Similarities
    candidates: Candidates
    selection: Selection
    describe: Callable[[np.ndarray], pa.Table]
    read: Callable[[str, int, int], bytes] | None


def write_report(path: Path, findings: Findings) -> None:
    """Write report.html: counts, scores, balance, pictures a class, duplicates side by side, and what was dropped."""
    per_class = np.bincount(findings.pairs["class_id"].to_numpy(), minlength=len(findings.classes))
    page = Page("Retrieved pairs", f"{len(findings.classes):,} classes from {findings.rows:,} pairs of {findings.pool}")
    page.section("In short", _in_short(findings, per_class), intro=findings.asked)
    page.section(
        "Scores",
        _scores(findings.pairs) + _similarities(findings.similarities),
        intro="What pairs are ranked by, and the similarities of the queries' hits, of all and of those whose pair was "
        "chosen. Similarities of different modes are never compared with each other.",
    )
    page.section("Class balance", _balance(findings, per_class), intro=_balance_intro(findings, per_class))
    page.section("What became of the hits", _fates(findings))
    page.section("Pictures" if findings.read else "Captions", *_chosen(findings, per_class))
    _duplicates(page, findings)
    _dropped(page, findings)
    files = Markup("<p>{}: a row a chosen pair. {}: every hit and what became of it. {}: what was asked.</p>")
    page.section(
        "See the rest",
        code("reactvl serve RUN") + files.format(link("pairs.parquet"), link("hits.parquet"), link("queries.parquet")),
        intro="Every pair of a class, the whole pool to search by words and pictures, and marks for what is wrong, in the "
        "browser. RUN is the folder of the run, or that of the embeddings.",
    )
    page.write(path)


def _in_short(findings: Findings, per_class: np.ndarray) -> Markup:
    count = findings.pairs.num_rows
    return tiles(
        [
            ("pairs", count),
            ("of the pool", f"{100 * count / max(findings.rows, 1):.1f}%"),
            ("median a class", float(np.median(per_class))),
            ("classes with few", len(findings.few)),
            ("captions without the class name", f"{100 * findings.unnamed:.0f}%"),
        ]
    )


def _scores(pairs: pa.Table) -> Markup:
    modes, scores = np.array(pairs["mode"].to_pylist(), dtype=object), pairs["score"].to_numpy()
    by_mode = {str(mode): scores[modes == mode] for mode in dict.fromkeys(modes)}
    return histogram(by_mode, xlabel="score, by the mode that found the pair")


def _similarities(similarities: Similarities) -> Markup:
    """A panel a mode; the two outlines are drawn to one height, so that their shapes can be compared."""
    modes = [mode for mode, counts in similarities.found.items() if counts.sum()]
    if not modes:
        return Markup("")
    with canvas(7.2, 1.9 * len(modes), rows=len(modes), squeeze=False) as (drawn, axes):
        for axis, mode in zip(axes[:, 0], modes, strict=True):
            edges = similarities.edges
            used = np.flatnonzero(similarities.found[mode])
            for label, counts, colour in (
                ("all hits", similarities.found[mode], SOFT),
                ("of chosen pairs", similarities.chosen[mode], SERIES[1]),
            ):
                if counts.sum():
                    axis.stairs(
                        counts / counts.max(), edges, color=colour, linewidth=1.6, label=f"{label} ({counts.sum():,})"
                    )
            axis.set_xlim(edges[used[0]] - 0.02, edges[used[-1] + 1] + 0.02)
            axis.set_yticks([])
            axis.set_title(mode)
            axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        axis.set_xlabel("similarity of the hit (match: the share of the caption that the name makes up)")
    return figure(drawn, f"histograms of similarities of {', '.join(modes)}")


def _balance_intro(findings: Findings, per_class: np.ndarray) -> str:
    short = int((per_class < findings.per_class).sum())
    empty = int((per_class == 0).sum())
    words = f"At most {findings.per_class:,} pairs a class; {short:,} of {len(per_class):,} classes have fewer"
    return words + (f", {empty:,} of them none." if empty else ".")


def _balance(findings: Findings, per_class: np.ndarray) -> Markup:
    few = set(findings.few)
    order = np.argsort(per_class, kind="stable")
    with canvas(7.2, 2.2) as (drawn, axis):
        axis.stairs(per_class[order[::-1]], color=SERIES[1], fill=True)
        axis.set_xlim(0, len(per_class))
        axis.set_ylim(bottom=0)
        axis.set_xlabel("classes, most pairs first")
        axis.set_ylabel("pairs")
    names = findings.classes
    rows = [
        [clipped(names[at], NAME), int(per_class[at]), "few pairs" if names[at] in few else ""] for at in order.tolist()
    ]
    left_out = len(rows) - TABLE_ROWS
    if left_out > 0:
        rows = [*rows[: TABLE_ROWS // 2], [f"... {left_out:,} classes between", "", ""], *rows[-TABLE_ROWS // 2 :]]
    table = fold(f"{len(order):,} classes, fewest first", data_table(["class", "pairs", ""], rows, right=[1]))
    return figure(drawn, "pairs of every class") + table


def _fates(findings: Findings) -> Markup:
    """Hits are counted a query; candidates are the pairs of a class and a row that they name, each once."""
    candidates = np.bincount(findings.selection.fate, minlength=len(FATES))
    rows = [
        [fate, findings.fates.get(fate, 0), int(candidates[number]), MEANING.get(fate, "")]
        for number, fate in enumerate(FATES)
        if findings.fates.get(fate, 0) or candidates[number]
    ]
    return data_table(["fate", "hits", "candidates", ""], rows)


@dataclass
class Budget:
    """Bytes that a section may still spend on items, and how many it had no room for."""

    left: int
    refused: int = 0

    def takes(self, size: int) -> bool:
        if self.left < size:
            self.left = 0  # what is shown is a beginning, not a choice by size
            self.refused += 1
            return False
        self.left -= size
        return True


@dataclass
class Shelf:
    """Items (picture or None, caption, note) under headings; an item enters while the budget lasts."""

    read: Callable[[str, int, int], bytes] | None
    budget: Budget
    held: dict[int, list[tuple[int, str | None, str, str]]] = field(default_factory=dict)

    def put(self, heading: int, order: int, where: dict, text: str) -> bool:
        """Add the item of a row (its shard, offset, size, caption and url) under a heading; items are shown by order."""
        if not self.budget.left:
            self.budget.refused += 1
            return False
        uri = self._picture(where)
        caption = clipped(where["caption"] or "", CAPTION)
        if uri is None and where.get("url"):
            text = f"{text} {clipped(where['url'], ADDRESS)}"
        if not self.budget.takes(len(uri or "") + 4 * (len(caption) * 2 + len(text)) + 150):
            return False
        self.held.setdefault(heading, []).append((order, uri, caption, text))
        return True

    def html(self, heading: int) -> Markup:
        items = sorted(self.held.get(heading, []), key=lambda item: item[0])
        if self.read is not None:
            return gallery((uri, caption, text) for _, uri, caption, text in items) if items else Markup("")
        lines = (
            Markup("<li>{} {}</li>").format(caption or "(no caption)", note(text)) for _, _, caption, text in items
        )
        return Markup("<ul>{}</ul>").format(Markup("").join(lines)) if items else Markup("")

    def _picture(self, where: dict) -> str | None:
        if self.read is None:
            return None
        try:
            return thumbnail(self.read(where["shard"], where["offset"], where["size"]), SIDE)
        except (
            OSError,
            ReactvlError,
            TypeError,
        ):  # a shard that is gone, or a row without one, costs the page a picture
            return thumbnail(b"", SIDE)


def _chosen(findings: Findings, per_class: np.ndarray) -> tuple[Markup, str]:
    """Of every class the first picture, then of every class the second, until the room is used."""
    ends = np.concatenate([[0], np.cumsum(per_class)]).tolist()
    places = [_spread(*ends) for ends in itertools.pairwise(ends)]
    shelf = Shelf(findings.read, Budget(BUDGETS["pairs"]))
    columns = findings.pairs.select(["shard", "offset", "size", "TEXT", "URL", "score"]).rename_columns(
        ["shard", "offset", "size", "caption", "url", "score"]
    )
    turns = [
        (number, of_class[turn])
        for turn in range(PER_CLASS)
        for number, of_class in enumerate(places)
        if turn < len(of_class)
    ]
    with progress("drawing the report", len(turns), "pictures" if findings.read else "captions") as bar:
        for piece in _chunks(turns, 1024):
            if not shelf.budget.left:
                break
            found = columns.take(pa.array([at for _, at in piece])).to_pylist()
            for (number, at), where in zip(piece, found, strict=True):
                shelf.put(number, at, where, f"{where['score']:.3g}")
            bar.advance(len(piece))
    blocks, unseen, empty = [], 0, 0
    for number, name in enumerate(findings.classes):
        count = int(per_class[number])
        items = shelf.html(number)
        if count and not items:
            unseen += 1
            continue
        empty += not count
        if not count and empty > TABLE_ROWS:
            continue
        heading = Markup("<h3>{} <small>{} {}</small></h3>").format(
            clipped(name, NAME), f"{count:,}", "pair" if count == 1 else "pairs"
        )
        blocks.append(heading + (items or Markup("<p>{}</p>").format("No pair was chosen.")))
    what = "pictures" if findings.read else "captions"
    intro = f"Up to {PER_CLASS} {what} a class, from its best pair to its last."
    return Markup("").join(blocks), intro + (f" There is no room for {unseen:,} further classes." if unseen else "")


def _spread(start: int, stop: int) -> list[int]:
    """Up to `PER_CLASS` places from the first to the last, evenly, in the order in which they should be shown if room
    is short: the ends first."""
    if stop <= start:
        return []
    places = np.unique(np.linspace(start, stop - 1, min(PER_CLASS, stop - start)).round().astype(int)).tolist()
    return sorted(places, key=lambda at: (at not in (start, stop - 1), at))


def _chunks(items: list, size: int) -> Iterable[list]:
    return (items[first : first + size] for first in range(0, len(items), size))


def duplicate_groups(candidates: Candidates, selection: Selection, fate: int) -> list[tuple[int, list[int]]]:
    """(the candidate that won, those of other rows that it kept out under this fate) of every picture, one of each row,
    the largest groups first."""
    lost = np.flatnonzero(selection.fate == fate)
    lost = lost[np.lexsort((candidates.row[lost], selection.winner[lost]))]
    winner, row = selection.winner[lost], candidates.row[lost]
    first = np.ones(len(lost), dtype=bool)
    first[1:] = (winner[1:] != winner[:-1]) | (row[1:] != row[:-1])
    lost, winner = lost[first], winner[first]
    edges = np.flatnonzero(np.diff(winner, prepend=-1))
    groups = [(int(members[0]), lost[at : at + len(members)].tolist()) for at, members in _runs(winner, edges)]
    return sorted(groups, key=lambda group: (-len(group[1]), group[0]))


def _runs(values: np.ndarray, edges: np.ndarray) -> Iterable[tuple[int, np.ndarray]]:
    return zip(edges.tolist(), np.split(values, edges[1:]) if len(edges) else [], strict=True)


def _duplicates(page: Page, findings: Findings) -> None:
    candidates, selection = findings.candidates, findings.selection
    shelf = Shelf(findings.read, Budget(BUDGETS["duplicates"]))
    blocks, heading = [], 0
    for fate, title in ((DUPLICATE, "Equal bytes"), (NEAR_DUPLICATE, "Near duplicates")):
        groups = duplicate_groups(candidates, selection, fate)
        if not groups:
            continue
        lost = sum(len(members) for _, members in groups)
        blocks.append(
            Markup("<h3>{} <small>{}</small></h3>").format(title, f"{lost:,} left out for {len(groups):,} kept")
        )
        shown = [[winner, *members[:PER_GROUP]] for winner, members in groups[:GROUPS]]
        described = iter(_described(findings, list(itertools.chain(*shown))))
        for group, (_, members) in zip(shown, groups, strict=False):
            for order, (at, where) in enumerate(zip(group, described, strict=False)):
                word = "left out" if order else "stands for all"
                shelf.put(heading, order, where, f"{word}; {_class(findings, at)}; {_place(where)}")
            more = len(members) - PER_GROUP
            blocks.append(shelf.html(heading) + (note(f"and {more:,} more") if more > 0 else Markup("")))
            heading += 1
    if blocks:
        page.section(
            "Duplicates",
            Markup("").join(blocks),
            intro=f"What was taken for one picture, side by side: the largest {GROUPS} groups. Only one of each is chosen, "
            "where its score is best. Near duplicates are joined in chains: A with B, and B with C.",
        )


def _dropped(page: Page, findings: Findings) -> None:
    fate = findings.selection.fate
    shelf = Shelf(findings.read, Budget(BUDGETS["dropped"]))
    blocks = []
    for number, word in enumerate(FATES):
        if number in (KEPT, DUPLICATE, NEAR_DUPLICATE):
            continue
        at = np.flatnonzero(fate == number)
        hits = findings.fates.get(word, 0)
        if not len(at) and not hits:
            continue
        shown = _best_of_each(findings.candidates, at)[:PER_FATE]
        for order, (candidate, where) in enumerate(zip(shown, _described(findings, shown), strict=True)):
            score = float(findings.candidates.score[candidate])
            shelf.put(number, order, where, f"{_class(findings, candidate)}, {score:.3g}")
        summary = f"{word}: {len(at):,} candidates, {hits:,} hits"
        blocks.append(fold(summary, Markup("<p>{}</p>").format(MEANING[word]) + shelf.html(number), is_open=True))
    if blocks:
        page.section(
            "What was dropped",
            Markup("").join(blocks),
            intro=f"Of each reason the {PER_FATE} best by score, of as many classes as there are, with the class that asked.",
        )


def _best_of_each(candidates: Candidates, at: np.ndarray) -> list[int]:
    """These candidates, every name's best first, then every name's second, and so on."""
    at = at[np.lexsort((candidates.row[at], -candidates.score[at], candidates.name[at]))]
    name = candidates.name[at]
    turn = np.arange(len(at)) - np.searchsorted(name, name)
    return at[np.lexsort((candidates.row[at], -candidates.score[at], turn))].tolist()


def _described(findings: Findings, at: Sequence[int]) -> list[dict]:
    return findings.describe(findings.candidates.row[np.asarray(at, dtype=np.int64)]).to_pylist() if len(at) else []


def _class(findings: Findings, candidate: int) -> str:
    return clipped(findings.names[int(findings.candidates.name[candidate])], NAME)


def _place(where: dict) -> str:
    """Where people find a row: its shard and key, or its key alone."""
    return clipped("/".join(str(part) for part in (where.get("shard"), where.get("key")) if part), ADDRESS)


def clipped(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 3] + "..."
