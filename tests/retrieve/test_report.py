"""The page of a retrieved folder: what it shows, and that it stays small."""

import dataclasses
import re

import numpy as np
import pyarrow as pa
import pytest
from tests_support import drawing

from reactvl.manifest import ReactvlError
from reactvl.report.page import LIMIT
from reactvl.retrieve import report
from reactvl.retrieve.report import Findings, Similarities, duplicate_groups, write_report
from reactvl.retrieve.selection import (
    DUPLICATE,
    FATES,
    KEPT,
    NEAR_DUPLICATE,
    Candidates,
    fate_counts,
    select,
)

PLACES = ("shard", "key", "offset", "size", "caption", "url")


def findings(
    classes: int, rows: int, *, per_class: int = 5, pictures: bool = True, caption=str, each: int = 40
) -> Findings:
    """Random candidates of which some are copies, near copies, listed, and so on, and what was chosen among them."""
    generator = np.random.default_rng(0)
    found = np.sort(generator.choice(classes * rows, min(classes * rows, each * classes), replace=False))
    name, row = np.divmod(found, rows)
    picture = generator.integers(0, max(1, rows // 2), rows)
    near = generator.integers(0, max(1, rows // 4), rows)[picture]
    leaked, filtered, excluded = (generator.random((3, rows)) < 0.05)[:, row]
    candidates = Candidates(
        name,
        row,
        generator.standard_normal(len(row)),
        fit=generator.random(len(row)) < 0.7,
        picture=picture[row],
        excluded=excluded,
        weak=generator.random(len(row)) < 0.1,
        near=near[row],
        lead=generator.standard_normal(len(row)),
        leaked=leaked,
        filtered=filtered,
    )
    selection = select(candidates, np.arange(classes), per_class, classes_per_pair="margin", margin=-0.5, balance=0.6)

    def describe(wanted: np.ndarray) -> pa.Table:
        known = [
            (f"{at % 7}.tar", f"k{at}", 8 * at, 8, caption(at), f"http://x/{at}")
            if pictures
            else (None, None, None, None, caption(at), f"http://x/{at}")
            for at in wanted.tolist()
        ]
        return pa.Table.from_pylist([dict(zip(PLACES, one, strict=True)) for one in known], schema=SCHEMA)

    kept = np.flatnonzero(selection.fate == KEPT)
    kept = kept[np.lexsort((selection.rank[kept], selection.class_id[kept]))]
    known = describe(row[kept])
    pairs = pa.table(
        {
            "class_id": selection.class_id[kept],
            "mode": pa.array(["t2i" if at % 2 else "t2t" for at in kept.tolist()], pa.string()),
            "score": candidates.score[kept].astype(np.float32),
            **{name: known[name] for name in ("shard", "offset", "size")},
            "URL": known["url"],
            "TEXT": known["caption"],
        }
    )
    similarities = Similarities()
    for mode in ("t2i", "t2t"):
        similarities.add(mode, generator.normal(0.3, 0.1, len(row)).astype(np.float32), selection.fate == KEPT)
    names = [f"class {number}" for number in range(classes)]
    per = np.bincount(selection.class_id[kept], minlength=classes)
    return Findings(
        pool="embeddings",
        rows=rows,
        classes=names,
        names=names,
        per_class=per_class,
        asked="Nothing in particular.",
        pairs=pairs,
        few=[names[at] for at in np.flatnonzero(per < 2)],
        unnamed=0.25,
        fates=fate_counts(selection.fate),
        similarities=similarities,
        candidates=candidates,
        selection=selection,
        describe=describe,
        read=(lambda shard, offset, size: drawing(offset // 8)) if pictures else None,
    )


SCHEMA = pa.schema([(name, pa.int64() if name in ("offset", "size") else pa.string()) for name in PLACES])


def written(found: Findings, path) -> str:
    write_report(path / "report.html", found)
    return (path / "report.html").read_text()


def test_everything_has_its_place(tmp_path):
    found = findings(6, 300)
    page = written(found, tmp_path)
    for heading in ("In short", "Scores", "Class balance", "What became of the hits", "Pictures", "Duplicates"):
        assert f"<h2>{heading}</h2>" in page
    counts = fate_counts(found.selection.fate)
    assert all(counts.values())  # every fate occurs in this example, and is told with its number
    for fate, count in counts.items():
        assert re.search(rf'<th scope="row">{fate}</th><td class="n">{count:,}</td>', page)
    for fate in set(FATES) - {"kept", "duplicate", "near duplicate"}:
        assert f"<summary>{fate}: {counts[fate]:,} candidates, {counts[fate]:,} hits</summary>" in page
    chosen = page[page.index("<h2>Pictures") : page.index("<h2>Duplicates")]
    per_class = np.bincount(found.pairs["class_id"].to_numpy(), minlength=6)
    assert chosen.count("<img ") == np.minimum(per_class, report.PER_CLASS).sum()
    assert page.count("<svg role") == 3
    assert written(found, tmp_path) == page  # the same again


def test_duplicates_stand_side_by_side(tmp_path):
    found = findings(6, 120)
    selection, candidates = found.selection, found.candidates
    page = written(found, tmp_path)
    shown = page[page.index("<h2>Duplicates") : page.index("<h2>What was dropped")]
    galleries = re.findall(r'<div class="gallery">(.*?)</div>', shown)
    groups = [
        group
        for fate in (DUPLICATE, NEAR_DUPLICATE)
        for group in duplicate_groups(candidates, selection, fate)[: report.GROUPS]
    ]
    assert len(galleries) == len(groups) > 4
    for html, (winner, members) in zip(galleries, groups, strict=True):
        assert html.count("<img ") == 1 + min(len(members), report.PER_GROUP)
        assert html.index("stands for all") < html.index("left out")
        assert f"k{candidates.row[winner]}" in html
    for fate in (DUPLICATE, NEAR_DUPLICATE):
        groups = duplicate_groups(candidates, selection, fate)
        members = [at for _, lost in groups for at in lost]
        rows = {(int(selection.winner[at]), int(candidates.row[at])) for at in np.flatnonzero(selection.fate == fate)}
        assert (
            len(members) == len(rows)
            and {(int(selection.winner[at]), int(candidates.row[at])) for at in members} == rows
        )
        assert all((selection.winner[lost] == winner).all() for winner, lost in groups)
        assert [len(lost) for _, lost in groups] == sorted((len(lost) for _, lost in groups), reverse=True)


def test_a_pool_of_urls_shows_captions_and_no_picture(tmp_path):
    page = written(findings(6, 300, pictures=False), tmp_path)
    assert "<img" not in page and "<h2>Captions</h2>" in page
    assert "http://x/" in page and 'href="http' not in page
    assert page.count("<li>") > 40


def test_captions_are_text_and_end_somewhere(tmp_path):
    page = written(findings(4, 200, caption=lambda at: f"<script>alert({at})</script>" + "x" * 10_000), tmp_path)
    assert "<script" not in page and "&lt;script&gt;" in page and "x" * report.CAPTION not in page
    assert written(findings(3, 200, caption=lambda at: None), tmp_path)


@pytest.mark.parametrize("fault", [OSError("gone"), ReactvlError("changed")])
def test_a_shard_that_is_gone_costs_pictures_only(tmp_path, fault):
    def gone(shard, offset, size):
        raise fault

    found = findings(3, 100)
    page = written(dataclasses.replace(found, read=gone), tmp_path)
    assert page.count("<img ") == written(found, tmp_path).count("<img ")


@pytest.mark.parametrize("pictures", [True, False])
def test_a_page_of_a_great_task_stays_small(tmp_path, pictures, monkeypatch):
    """12,000 classes with long names and captions: the page keeps to its limit and says what it leaves out."""
    monkeypatch.setattr(report, "thumbnail", lambda data, side: "data:image/webp;base64," + "A" * 4000)
    found = findings(12_000, 50_000, pictures=pictures, caption=lambda at: "漢" * 300, each=6)
    long = ["名" * 150 + str(number) for number in range(12_000)]
    found = dataclasses.replace(found, classes=long, names=long, few=long[:5000], read=found.read and (lambda *_: b""))
    page = written(found, tmp_path)
    assert len(page.encode()) < LIMIT
    assert "no room for" in page and "classes between" in page


def test_nothing_was_found(tmp_path):
    found = findings(1, 1)
    none = np.empty(0, int)
    empty = Candidates(none, none, none.astype(float), *np.zeros((1, 0), bool), none, *np.zeros((2, 0), bool))
    page = written(
        dataclasses.replace(
            found,
            pairs=found.pairs.slice(0, 0),
            candidates=empty,
            selection=select(empty, np.arange(1), 3),
            fates=dict.fromkeys(FATES, 0) | {"below minimum": 7},
            similarities=Similarities(),
        ),
        tmp_path,
    )
    assert "No pair was chosen." in page and "below minimum: 0 candidates, 7 hits" in page


def test_similarities_are_those_of_one_histogram():
    generator = np.random.default_rng(0)
    score, kept = generator.uniform(-1.2, 1.2, 1000).astype(np.float32), generator.random(1000) < 0.3
    whole, pieces = Similarities(), Similarities()
    whole.add("t2i", score, kept)
    for some in np.array_split(np.arange(1000), 7):
        pieces.add("t2i", score[some], kept[some])
    assert (whole.found["t2i"] == pieces.found["t2i"]).all() and whole.found["t2i"].sum() == 1000
    assert (whole.chosen["t2i"] == pieces.chosen["t2i"]).all() and whole.chosen["t2i"].sum() == kept.sum()
