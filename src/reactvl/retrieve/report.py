"""The page of a retrieved folder: what was chosen for every class, with pictures."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
from markupsafe import Markup

from reactvl.manifest import ReactvlError
from reactvl.report.page import Page, data_table, fold, gallery, tiles
from reactvl.report.plots import histogram
from reactvl.report.thumbnails import thumbnail
from reactvl.retrieve.request import Plan, Request

PER_CLASS = 8
SIDE = 80
BUDGET = 9_000_000  # bytes of pictures; the page's own limit is 12 MB


def write_report(path: Path, plan: Plan, request: Request, table: pa.Table, facts: dict) -> None:
    """Write report.html: counts, scores, and for every class up to `PER_CLASS` pictures, spread over its ranks."""
    per_class = np.bincount(table["class_id"].to_numpy(), minlength=len(plan.classes))
    rows = sum(map(len, plan.sides[plan.modes[0]]))
    page = Page(
        "Retrieved pairs",
        f"{len(plan.classes):,} classes, {len(plan.templates):,} templates, {plan.embeddings.folder.name}",
    )
    page.section(
        "In short",
        tiles(
            [
                ("pairs", table.num_rows),
                ("of the pool", f"{100 * table.num_rows / rows:.1f}%"),
                ("median a class", float(np.median(per_class))),
                ("classes with few", len(facts["few"])),
                ("captions without the class name", f"{100 * facts['captions_without_class_name']:.0f}%"),
            ]
        ),
        intro=f"At most {request.per_class:,} pairs a class, from {plan.candidates:,} nearest of every query; "
        f"compared with {' and '.join(plan.modes)} vectors; no label was used.",
    )
    page.section(
        "Scores",
        histogram(_scores(table, plan), xlabel="standard deviations over the pool, by the mode that found the pair"),
        intro="What pairs are ranked by: similarity to the class's mean query against a sample of the pool, "
        "joined over the modes.",
    )
    fates = facts["fates_of_hits"]
    page.section(
        "What became of the hits", data_table(["fate", "hits"], [[fate, count] for fate, count in fates.items()])
    )
    page.section("Pairs per class", _counts(plan, per_class, facts))
    page.section(
        "Pictures",
        _galleries(plan, table, per_class),
        intro=f"Up to {PER_CLASS} pictures a class, from its best pair to its last.",
    )
    page.write(path)


def _scores(table: pa.Table, plan: Plan) -> dict[str, np.ndarray]:
    modes, scores = np.array(table["mode"].to_pylist()), table["score"].to_numpy()
    return {mode: scores[modes == mode] for mode in plan.modes if (modes == mode).any()}


def _counts(plan: Plan, per_class: np.ndarray, facts: dict) -> Markup:
    few = set(facts["few"])
    order = np.argsort(per_class, kind="stable")
    rows = [
        [plan.classes[at], int(per_class[at]), "few pairs" if plan.classes[at] in few else ""] for at in order.tolist()
    ]
    return fold(f"{len(rows):,} classes, fewest first", data_table(["class", "pairs", ""], rows))


def _galleries(plan: Plan, table: pa.Table, per_class: np.ndarray) -> Markup:
    first = np.concatenate([[0], np.cumsum(per_class)])
    pictures = _thumbnails(plan, table, [_spread(*ends) for ends in itertools.pairwise(first.tolist())])
    texts, scores = table["TEXT"], table["score"]
    blocks = []
    for number, name in enumerate(plan.classes):
        items = [(uri, str(texts[at].as_py() or ""), f"{scores[at].as_py():.1f}") for at, uri in pictures[number]]
        count = int(per_class[number])
        heading = Markup("<h3>{} <small>{} {}</small></h3>").format(
            name, f"{count:,}", "pair" if count == 1 else "pairs"
        )
        blocks.append(heading + (gallery(items) if items else Markup("<p>{}</p>").format("No pair was chosen.")))
    return Markup("").join(blocks)


def _spread(start: int, stop: int) -> list[int]:
    """Up to `PER_CLASS` places from the first to the last, evenly, in the order in which they should be shown if room
    is short: the ends first."""
    places = (
        np.unique(np.linspace(start, stop - 1, min(PER_CLASS, stop - start)).round().astype(int)).tolist()
        if stop > start
        else []
    )
    return sorted(places, key=lambda at: (at not in (start, stop - 1), at))


def _thumbnails(plan: Plan, table: pa.Table, places: list[list[int]]) -> list[list[tuple[int, str]]]:
    """(place, data URI) of every class's pictures: the first of every class, then the second, until the room is
    used."""
    where = table.select(["shard", "offset", "size"]).to_pylist()
    taken: list[list[tuple[int, str]]] = [[] for _ in places]
    used = 0
    for turn in range(PER_CLASS):
        for number, of_class in enumerate(places):
            if turn < len(of_class):
                at = of_class[turn]
                uri = _picture(plan, where[at])
                used += len(uri)
                if used > BUDGET:
                    return [sorted(pictures) for pictures in taken]
                taken[number].append((at, uri))
    return [sorted(pictures) for pictures in taken]


def _picture(plan: Plan, where: dict) -> str:
    try:
        return thumbnail(plan.embeddings.read_bytes(**where), SIDE)
    except (OSError, ReactvlError):  # a shard that is gone costs the page a picture, not the retrieval its result
        return thumbnail(b"", SIDE)
