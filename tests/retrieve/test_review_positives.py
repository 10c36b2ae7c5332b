"""Pairs that were picked by hand, and lists of exclusion in several files."""

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactvl.export.found_by import search_meta
from reactvl.handles.foreign_columns import read_columns
from reactvl.manifest import ReactvlError
from reactvl.options import command_line
from reactvl.recipe import TABLES
from reactvl.retrieve import positives, retrieve
from reactvl.retrieve.positives import located, read_positives
from reactvl.retrieve.selection import FATES, KEPT, Candidates, select
from reactvl.tasks.classes import ClassEntry, read_class_list

CLASSES = ["red panda|lesser panda", "teapot", "tractor"]
ASKED = {"classes": CLASSES, "templates": ["{}", "a picture of {}"], "per_class": 6}


@pytest.fixture(autouse=True)
def quick(request):
    if "report" not in request.fixturenames:
        request.getfixturevalue("no_report")


@pytest.fixture
def report():
    """Asked for by tests that look at the report."""


@pytest.fixture
def rows(world):
    """Rows 0-19 show red pandas, 20-39 teapots, 40-59 tractors, 60-119 nothing in particular; 118 and 119 are one picture."""
    generator = np.random.default_rng(0)
    made = [
        world.row(world.toward(name, 2.0, generator), world.toward(name, 3.0, generator), f"{number} {name}")
        for name in ("red panda", "teapot", "tractor")
        for number in range(20)
    ]
    return made + [
        world.row(
            world.toward("x", 0.0, generator), world.toward("x", 0.0, generator), f"noise {n}", 999 if n > 57 else None
        )
        for n in range(60)
    ]


@pytest.fixture
def pool(rows, embedded):
    return embedded(rows, parts=3)


def names(embeddings, *rows: int) -> list[str]:
    """shard/key of rows counted over all parts."""
    every = [pair for part in embeddings.parts for pair in part.metadata(["shard", "key"]).to_pylist()]
    return ["{shard}/{key}".format(**every[row]) for row in rows]


def places(pairs, name: str) -> list[str]:
    """shard/key of a class's pairs, by rank."""
    rows = [row for row in pairs.table().to_pylist() if row["class"] == name]
    assert [row["rank"] for row in rows] == list(range(len(rows)))
    return [f"{row['shard']}/{row['key']}" for row in rows]


def test_picked_pairs_are_first_whatever_they_are(pool, text_tower, world, tmp_path, report):
    """Noise, pairs of another class, and pairs below every minimum are in the class that they were picked for, in the order
    of the file, and in no other."""
    listed = tmp_path / "picked.tsv"
    wanted = names(pool, 70, 25, 5, 100)
    listed.write_text("".join(f"tractor\t{name}\r\n" for name in wanted) + "\n")
    asked = {"min_score": 3.0, "min_similarity": 0.2, "where": "caption NOT LIKE '%noise%'", "balance": 1.0}
    pairs = retrieve(pool, **ASKED, **asked, positives=listed, out=tmp_path / "out")
    assert places(pairs, "tractor")[:4] == wanted
    assert not {*wanted} & {*places(pairs, "teapot"), *places(pairs, "red panda")}
    table = [row for row in pairs.table().to_pylist() if row["class"] == "tractor"]
    assert len(table) <= 6 and all("tractor" in row["TEXT"] for row in table[4:])
    for row in table[:4]:
        found = row["mode"] != "positive"
        assert (row["prompt"] is not None) == found == (row["similarity"] is not None)
        assert np.isfinite(row["score"])
    assert pairs.manifest.facts["positives"] == {
        "listed": 4,
        "fates": {"kept": 4},
        "not_in_pool": 0,
        "lacking": [],
    }
    assert "4 pairs were picked by hand" in (tmp_path / "out/report.html").read_text()
    by_hand = pairs.table()["mode"].to_pylist().index("positive")
    assert pairs.read_image(by_hand) == world.picture(70)
    found = search_meta(pairs, pairs.table(["class_id", "part", "row", "prompt", "similarity"]))
    assert found[by_hand] == [] and all(
        found[at] for at, mode in enumerate(pairs.table()["mode"].to_pylist()) if mode != "positive"
    )


def test_every_way_of_choosing_takes_them(pool, text_tower, tmp_path):
    listed = tmp_path / "picked.tsv"
    wanted = names(pool, 70, 25, 5)
    listed.write_text("".join(f"tractor\t{name}\n" for name in wanted))
    ways = [
        {"fusion": "rrf"},
        {"fusion": "union", "modes": ["t2i", "t2t", "match"]},
        {"modes": ["match"]},
        {"modes": ["t2i", "match"], "fusion": "match-rerank"},
        {"rivals": "finders", "per_prompt": 3},
        {"classes_per_pair": "margin", "margin": 2.0},
        {"dedup": ["phash=4", "embedding=0.9"]},
        {"top_up": True, "per_prompt": 3},
    ]
    for number, way in enumerate(ways):
        pairs = retrieve(pool, **ASKED, **way, positives=listed, out=tmp_path / str(number))
        assert places(pairs, "tractor")[:3] == wanted, way
        everything = places(pairs, "red panda") + places(pairs, "teapot") + places(pairs, "tractor")
        assert len(set(everything)) == len(everything) <= 18
        assert np.isfinite(pairs.table()["score"].to_numpy()).all()
        hits = pq.read_table(tmp_path / str(number) / "hits.parquet")
        kept = hits.filter(np.equal(hits["fate"].to_numpy(), 0)).select(["part", "row"]).to_pylist()
        chosen = pairs.table(["part", "row", "mode"]).to_pylist()
        found = {(row["part"], row["row"]) for row in chosen if row["mode"] != "positive"}
        assert {(hit["part"], hit["row"]) for hit in kept} == found
    many = retrieve(pool, **ASKED, classes_per_pair="many", positives=listed, out=tmp_path / "many")
    assert places(many, "tractor")[:3] == wanted and names(pool, 25)[0] in places(many, "teapot") + wanted


def test_more_than_a_class_holds_are_all_kept(pool, text_tower, tmp_path):
    listed = tmp_path / "picked.tsv"
    wanted = names(pool, *range(60, 70))
    listed.write_text("".join(f"teapot\t{name}\n" for name in wanted))
    pairs = retrieve(pool, **ASKED, positives=listed, out=tmp_path / "out")
    assert places(pairs, "teapot") == wanted and len(places(pairs, "tractor")) == 6


def test_exclusion_wins_in_any_of_its_files(pool, text_tower, tmp_path, capsys):
    """Two files of exclusion and two of positives; a copy of an excluded picture is another pair."""
    kept, by_name, by_sum, copy, twin = names(pool, 70, 71, 72, 118, 119)
    table = [row for part in pool.parts for row in part.metadata(["sha256"]).to_pylist()]
    (tmp_path / "a.tsv").write_text(f"teapot\t{kept}\nteapot\t{by_name}\nteapot\t{by_sum}\n")
    (tmp_path / "b.tsv").write_text(f"lesser panda\t{table[118]['sha256'].hex().upper()}\nteapot\t{kept}\n")
    (tmp_path / "a.txt").write_text(f"{by_name}\n{copy}\n")
    (tmp_path / "b.txt").write_text(table[72]["sha256"].hex())
    pairs = retrieve(
        pool,
        **ASKED,
        exclude=[tmp_path / "a.txt", tmp_path / "b.txt"],
        positives=[tmp_path / "a.tsv", tmp_path / "b.tsv"],
        out=tmp_path / "out",
    )
    assert places(pairs, "teapot")[0] == kept and places(pairs, "red panda")[0] == twin
    assert not {by_name, by_sum, copy} & {*places(pairs, "teapot"), *places(pairs, "red panda")}
    assert pairs.manifest.facts["positives"]["fates"] == {"kept": 2, "excluded": 3}
    assert "picked by hand: 4 pairs; 2 kept, 3 excluded" in capsys.readouterr().out
    with pytest.raises(
        ReactvlError, match=r"holds another result \(exclude has changed\)"
    ):  # not two hashes to compare
        retrieve(pool, **ASKED, positives=[tmp_path / "a.tsv", tmp_path / "b.tsv"], out=tmp_path / "out")
    again = retrieve(
        pool,
        **ASKED,
        exclude=[tmp_path / "b.txt", tmp_path / "a.txt"],
        positives=[tmp_path / "a.tsv", tmp_path / "b.tsv"],
        out=tmp_path / "out",
    )
    assert again.manifest.files == pairs.manifest.files  # the order of what is left out says nothing


def test_what_the_pool_lacks_is_counted_and_listed(pool, text_tower, tmp_path, capsys):
    listed = tmp_path / "picked.tsv"
    gone = ["00000.tar/nothing", "gone.tar/a/b", "ab" * 32]
    listed.write_text("".join(f"teapot\t{name}\n" for name in [*gone, *names(pool, 70)]))
    pairs = retrieve(pool, **ASKED, positives=listed, out=tmp_path / "out")
    assert places(pairs, "teapot")[0] == names(pool, 70)[0]
    facts = pairs.manifest.facts["positives"]
    assert (facts["listed"], facts["not_in_pool"], facts["lacking"]) == (4, 3, gone)
    assert f"3 not in the pool: {', '.join(gone)}" in capsys.readouterr().out


def test_evaluation_images_stay_out(pool, text_tower, world, tmp_path):
    (tmp_path / "evaluation").mkdir()
    world.example(tmp_path / "evaluation/a.png", 70, world.toward("x", 0.0, np.random.default_rng(5)))
    listed = tmp_path / "picked.tsv"
    listed.write_text(f"teapot\t{names(pool, 70)[0]}\n")
    pairs = retrieve(
        pool, **ASKED, positives=listed, exclude_images=[str(tmp_path / "evaluation")], out=tmp_path / "out"
    )
    assert pairs.manifest.facts["positives"]["fates"] == {"evaluation image": 1}


def test_lists_are_read_strictly(tmp_path):
    entries = read_class_list(["red panda|fire fox", "crane|bird crane", "fire fox"])
    other = ClassEntry("crane", ("crane", "lifting crane"))
    listed = tmp_path / "picked.tsv"
    listed.write_bytes("\ufeffred panda \t 0.tar/a/b\tc \n fire fox\t0.tar/1\nred panda\t0.tar/a/b\tc\n".encode())
    found = read_positives(listed, entries)
    assert [(one.name, one.pair) for one in found] == [
        (0, "0.tar/a/b\tc"),
        (2, "0.tar/1"),
    ]  # each once; shown names first
    assert read_positives(None, entries) == read_positives([], entries) == []
    for text, words in (
        ("red panda 0.tar/1\n", r"picked\.tsv, line 1: .* has no tab"),
        ("\n\nzebra\t0.tar/1\n", r"line 3: 'zebra' is none of the 4 classes"),
        ("red panda\tnothing\n", r"line 1: 'nothing' is neither"),
        ("crane\t0.tar/1\n", r"line 1: 'crane' is the name of 2 different classes"),
    ):
        listed.write_text(text)
        with pytest.raises(ReactvlError, match=words):
            read_positives(listed, [*entries, other])
    listed.write_text("lifting crane\t0.tar/1\nbird crane\t0.tar/1\n")
    assert [one.name for one in read_positives(listed, [*entries, other])] == [3, 1]
    listed.write_bytes(b"\xff\xfe")
    for path in (listed, tmp_path / "gone.tsv"):
        with pytest.raises(ReactvlError, match="list of positives cannot be read"):
            read_positives(path, entries)


def test_one_file_or_several_on_the_command_line_and_in_a_recipe():
    typed = command_line(retrieve, "retrieve", ["x", "--out", "o", "--exclude", "a", "b", "--positives", "c"])
    assert typed["exclude"] == [Path("a"), Path("b")] and typed["positives"] == [Path("c")]
    for files in ("a", ["a", "b"]):
        assert msgspec.convert({"exclude": files}, TABLES["retrieve"]).exclude == files
    with pytest.raises(msgspec.ValidationError, match="positives"):
        msgspec.convert({"positives": 3}, TABLES["retrieve"])


def test_classes_of_one_name_share_what_was_picked(pool, text_tower, tmp_path):
    listed = tmp_path / "picked.tsv"
    wanted = names(pool, 70, 71, 72)
    listed.write_text("".join(f"teapot\t{name}\n" for name in wanted))
    asked = {"classes": ["teapot", "tractor", "teapot"], "templates": ["{}"], "per_class": 4}
    with pytest.warns(UserWarning, match="stay two classes"):
        pairs = retrieve(pool, **asked, positives=listed, out=tmp_path / "out")
    first, second = ([f"{r['shard']}/{r['key']}" for r in pairs.by_class(n).table().to_pylist()] for n in (0, 2))
    assert first[:2] == wanted[::2] and second[0] == wanted[1] and len(first) == len(second) == 4


def test_rows_are_looked_up_where_they_can_be(pool, rows, embedded, tmp_path, monkeypatch):
    """Every name of the pool is found where it is; row groups of other shards are not read."""
    entries = read_class_list(["a", "b"])
    listed = tmp_path / "picked.tsv"
    listed.write_text("".join(f"{'ab'[row % 2]}\t{name}\n" for row, name in enumerate(names(pool, *range(120)))))
    found = located(read_positives(listed, entries), pool)
    assert found.row.tolist() == [*range(0, 120, 2), *range(1, 120, 2)] and (found.turn == found.row).all()
    assert found.name.tolist() == [0] * 60 + [1] * 60 and not found.lacking
    six, read = embedded(rows, parts=6, name="six"), []
    listed.write_text(f"a\t{names(six, 119)[0]}\n")

    def counted(path, *asked):
        read.append(path.name)
        return read_columns(path, *asked)

    monkeypatch.setattr(positives, "read_columns", counted)
    assert located(read_positives(listed, entries), six).row.tolist() == [119]
    assert read == ["metadata_3.parquet", "metadata_4.parquet", "metadata_5.parquet"]  # those of its shard
    assert positives.shards_of(["a/b/c", "d/e"]) == ["a", "a/b", "d"]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 40),
    cap=st.integers(1, 6),
    serves=st.sampled_from(["one", "margin", "many"]),
    balance=st.sampled_from([None, 1.0]),
)
def test_what_picking_promises(seed, rows, cap, serves, balance):
    """On random candidates: of the pictures picked for a class each is kept once, before all others and in turn; nobody
    else has them; and to pick nothing is to choose as before."""
    generator = np.random.default_rng(seed)
    classes = 4
    name, row = np.divmod(np.flatnonzero(generator.random(classes * rows) < 0.6), rows)
    excluded, leaked, filtered = (generator.random((3, rows)) < 0.15)[:, row]
    count = len(row)
    bare = Candidates(
        name=name,
        row=row,
        score=generator.standard_normal(count),
        fit=generator.random(count) < 0.6,
        picture=generator.integers(0, rows, rows)[row],
        excluded=excluded,
        weak=generator.random(count) < 0.3,
        lead=generator.standard_normal(count),
        leaked=leaked,
        filtered=filtered,
    )
    turn = np.where(generator.random(count) < 0.2, generator.permutation(count), -1)
    asked = {"classes_per_pair": serves, "balance": balance}
    chosen = select(dataclasses.replace(bare, picked=turn), np.arange(classes), cap, **asked)
    barred = excluded | leaked
    assert np.isin(chosen.fate[barred], [FATES.index("excluded"), FATES.index("evaluation image")]).all()
    taken: dict[int, set[int]] = {}
    for number in range(classes):
        mine = np.flatnonzero((name == number) & (turn >= 0) & ~barred)
        first = {}
        for at in mine[np.argsort(turn[mine])].tolist():
            first.setdefault(int(bare.picture[at]), at)
            taken.setdefault(int(bare.picture[at]), set()).add(number)
        kept = list(first.values())
        assert (chosen.fate[kept] == KEPT).all() and (chosen.class_id[kept] == number).all()
        assert chosen.rank[kept].tolist() == list(range(len(kept)))
        of_class = np.flatnonzero((chosen.fate == KEPT) & (chosen.class_id == number))
        assert len(of_class) <= max(cap, len(kept))
        assert len({*bare.picture[of_class]}) == len(of_class)
    if serves != "many":
        for at in np.flatnonzero(chosen.fate == KEPT).tolist():
            assert name[at] in taken.get(int(bare.picture[at]), {name[at]})
    none = select(dataclasses.replace(bare, picked=np.full(count, -1)), np.arange(classes), cap, **asked)
    before = select(bare, np.arange(classes), cap, **asked)
    assert all(np.array_equal(getattr(none, part), getattr(before, part)) for part in ("fate", "rank", "winner"))
