"""Modes, fusions, queries and how deep they are searched, through the stage."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from reactvl.manifest import ReactvlError, read_manifest
from reactvl.retrieve import retrieve
from reactvl.retrieve.queries import MODES

CLASSES = ["red panda", "teapot", "tractor"]
ASKED = {"classes": CLASSES, "templates": ["{}", "a picture of {}"]}
PLAIN = {**ASKED, "per_class": 10}


@pytest.fixture
def rows(world):
    """20 pairs a class, of which 12 captions hold its name, and 60 of nothing, of which 9 hold "teapot"."""
    generator = np.random.default_rng(0)
    made = []
    for name in CLASSES:
        for number in range(20):
            caption = f"clip art of a {name.title()}, {number}" if number < 12 else "some drawing"
            made.append(world.row(world.toward(name, 2.0, generator), world.toward(name, 3.0, generator), caption))
    for number in range(60):
        caption = "a storm in a teapot" if number < 9 else f"teapots and noise {number}"
        made.append(world.row(world.toward("x", 0.0, generator), world.toward("x", 0.0, generator), caption))
    return [made[at] for at in generator.permutation(len(made))]


@pytest.fixture(autouse=True)
def quick(no_report):
    """Reports have tests of their own."""


def chosen(pairs) -> list[dict]:
    return pairs.table().to_pylist()


def test_match_alone_finds_the_captions_that_hold_the_name(rows, embedded, text_tower, tmp_path):
    """No vector is needed, nor a model: the shorter the rest of the caption the better."""
    embeddings = embedded(rows, texts=False)
    pairs = retrieve(embeddings, **ASKED, per_class=30, modes=["match"], out=tmp_path / "out")
    assert not text_tower
    by_class = [pairs.by_class(name).captions for name in CLASSES]
    assert [len(captions) for captions in by_class] == [12, 21, 12]
    assert all("teapot" in caption.lower().split() or "Teapot," in caption for caption in by_class[1])
    assert by_class[1][:9] == ["a storm in a teapot"] * 9  # the name is a larger share of them
    assert {(row["mode"], row["prompt"], row["similarity"]) for row in chosen(pairs)} == {
        ("match", name, None) for name in CLASSES
    }
    assert pairs.manifest.facts["captions_that_hold_a_name"] == 45


def test_match_adds_candidates_to_vectors(rows, embedded, text_tower, tmp_path):
    """A row that only its caption finds is scored like any other, so it comes after what fits."""
    embeddings = embedded(rows)
    with_match = retrieve(
        embeddings,
        **ASKED,
        per_class=60,
        per_prompt=21,
        modes=["t2t", "match"],
        rivals="finders",
        out=tmp_path / "with",
    )
    without = retrieve(
        embeddings, **ASKED, per_class=60, per_prompt=21, modes=["t2t"], rivals="finders", out=tmp_path / "no"
    )
    scores = {(row["class"], row["key"], row["shard"]): row["score"] for row in chosen(with_match)}
    assert {(row["class"], row["key"], row["shard"]): row["score"] for row in chosen(without)}.items() <= scores.items()
    added = [row for row in chosen(with_match) if row["mode"] == "match"]
    assert added and all("teapot" in row["TEXT"].lower() for row in added)
    assert all(row["similarity"] is None for row in added)


def test_match_reranked_by_pictures(rows, embedded, text_tower, world, tmp_path):
    """Only captions that hold the name, ordered by the similarity of their pictures to the class's mean query."""
    embeddings = embedded(rows)
    pairs = retrieve(embeddings, **PLAIN, modes=["t2i", "match"], fusion="match-rerank", out=tmp_path / "out")
    queries = [text for text in text_tower if "teapot" in text]
    assert len(queries) == 2
    table = pairs.by_class("teapot").table().to_pylist()
    assert len(table) == 10 and not any("storm" in row["TEXT"] for row in table)  # their pictures show nothing of it
    images = np.concatenate([part.images() for part in embeddings.parts]).astype(float)
    offsets = np.cumsum([0, *(part.rows for part in embeddings.parts)])
    found = [images[offsets[row["part"]] + row["row"]] for row in table]
    similar = np.stack(found) @ world.direction("teapot")
    assert (np.diff([row["similarity"] for row in table]) <= 0).all() and similar.min() > 0.5
    hits = pq.read_table(tmp_path / "out/hits.parquet")
    assert set(hits["mode"].to_pylist()) == {MODES.index("match")}


@pytest.mark.parametrize("fusion", ["union", "rrf"])
def test_fusions_by_rank(rows, embedded, text_tower, tmp_path, fusion):
    """Scores are those of ranks (1 and 2/61 at most), a class's pairs stand in their order, and noise is not chosen."""
    table = chosen(retrieve(embedded(rows), **PLAIN, fusion=fusion, out=tmp_path / "out"))
    assert len(table) == 30 and sum("noise" in row["TEXT"] for row in table) == 0
    score = np.array([row["score"] for row in table])
    top = 1.0 if fusion == "union" else 2 / 61
    assert score.max() <= top + 1e-6 and score.min() > 0
    assert all((np.diff(score[at : at + 10]) <= 0).all() for at in (0, 10, 20))


def test_every_synonym_is_a_query(rows, embedded, text_tower, tmp_path):
    """The class's display name finds nothing; its second name does."""
    pairs = retrieve(
        embedded(rows),
        classes=["firefox|red panda", "teapot"],
        templates=["{}", "a picture of {}"],
        per_class=8,
        out=tmp_path / "out",
    )
    queries = pq.read_table(tmp_path / "out/queries.parquet").to_pylist()
    assert [(row["class"], row["name"], row["template"]) for row in queries] == [
        ("firefox", "firefox", "{}"),
        ("firefox", "firefox", "a picture of {}"),
        ("firefox", "red panda", "{}"),
        ("firefox", "red panda", "a picture of {}"),
        ("teapot", "teapot", "{}"),
        ("teapot", "teapot", "a picture of {}"),
    ]
    found = pairs.by_class("firefox").table().to_pylist()
    assert len(found) == 8 and pairs.classes == ["firefox", "teapot"]
    assert sum("red panda" in row["prompt"] for row in found) >= 6
    assert pairs.manifest.options["details"] is not None


def test_templates_of_one_class(rows, embedded, text_tower, tmp_path):
    (tmp_path / "classes.json").write_text(
        json.dumps({"class": [{"name": "teapot", "templates": ["{}"]}, {"name": "red panda"}]})
    )
    retrieve(
        embedded(rows), classes=str(tmp_path / "classes.json"), templates=["a picture of {}"], out=tmp_path / "out"
    )
    assert text_tower == ["teapot", "a picture of red panda"]


def test_examples_find_their_like(rows, embedded, text_tower, world, tmp_path):
    """Pictures of the class ask for pictures (i2i) and captions (i2t), and a class without one is asked for by text."""
    world.example(tmp_path / "pot.png", 901, world.direction("teapot"))
    world.example(tmp_path / "pot2.png", 902, world.direction("teapot"))
    (tmp_path / "classes.json").write_text(
        json.dumps({"class": [{"name": "kettle", "examples": ["pot.png", "pot2.png"]}, {"name": "tractor"}]})
    )
    asked = {"classes": str(tmp_path / "classes.json"), "templates": ["{}"], "per_class": 8}
    embeddings = embedded(rows)
    pairs = retrieve(embeddings, **asked, modes=["t2i", "i2i", "i2t"], out=tmp_path / "out")
    found = pairs.by_class("kettle").table().to_pylist()
    assert len(found) == 8 and all("Teapot" in row["TEXT"] or row["TEXT"] == "some drawing" for row in found)
    assert {row["mode"] for row in found} <= {"i2i", "i2t"}
    assert {row["prompt"] for row in found} <= {"pot.png", "pot2.png"}
    assert len(pairs.by_class("tractor")) == 8
    with pytest.raises(ReactvlError, match="class tractor: has no example picture"):
        retrieve(embeddings, **asked, modes=["i2i"], out=tmp_path / "refused")
    (tmp_path / "pot.png").write_bytes(b"no picture")
    with pytest.raises(ReactvlError, match=r"example picture .*pot\.png"):
        retrieve(embeddings, **asked, modes=["i2i", "t2i"], out=tmp_path / "broken")


def test_top_up_is_a_deeper_search(rows, embedded, text_tower, tmp_path):
    """Classes that a shallow search leaves short get what the deep one finds, and the bytes say how deep."""
    embeddings = embedded(rows)
    shallow, topped, deep = (
        retrieve(embeddings, **ASKED, per_class=18, **more, out=tmp_path / name)
        for name, more in (
            ("shallow", {"per_prompt": 3}),
            ("topped", {"per_prompt": 3, "top_up": True}),
            ("deep", {"per_prompt": 120}),
        )
    )
    assert len(shallow) < 54 and len(topped) == 54
    keys = [[(row["class"], row["shard"], row["key"]) for row in chosen(pairs)] for pairs in (topped, deep)]
    assert keys[0] == keys[1]
    assert topped.manifest.facts["deepest"]["t2i"] > 3 and topped.manifest.facts["short"] == 0


def test_top_up_ends_with_the_pool(rows, embedded, text_tower, tmp_path):
    """Asked for more than there is, it takes all that fits; filters and floors end it earlier."""
    embeddings = embedded(rows)
    pairs = retrieve(embeddings, **ASKED, per_class=200, per_prompt=5, top_up=True, out=tmp_path / "all")
    assert len(pairs) == 120 and max(pairs.manifest.facts["deepest"].values()) == 120
    floored = retrieve(
        embeddings,
        **ASKED,
        per_class=200,
        per_prompt=5,
        top_up=True,
        modes=["t2t"],
        min_similarity=["t2t=0.9"],
        out=tmp_path / "floor",
    )
    assert 0 < len(floored) < 60 and floored.manifest.facts["deepest"]["t2t"] < 120


def test_where_is_topped_up(rows, embedded, text_tower, tmp_path):
    """A condition that most near rows fail: the search goes on until the classes are full of rows that meet it."""
    embeddings = embedded(rows)
    asked = {**ASKED, "per_class": 8, "per_prompt": 4, "where": "caption = 'some drawing'"}
    plain = retrieve(embeddings, **asked, out=tmp_path / "plain")
    topped = retrieve(embeddings, **asked, top_up=True, out=tmp_path / "topped")
    assert len(plain) < len(topped) == 24 and set(topped.table()["TEXT"].to_pylist()) == {"some drawing"}
    assert plain.manifest.facts["fates_of_hits"]["filtered"] > 0
    with pytest.raises(ReactvlError, match="no column 'captoin'"):
        retrieve(embeddings, **{**asked, "where": "captoin = 'x'"}, out=tmp_path / "refused")


def test_least_similarity_of_each_mode(rows, embedded, text_tower, tmp_path):
    embeddings = embedded(rows)
    pairs = retrieve(embeddings, **ASKED, per_class=60, min_similarity=["t2i=0.8", "t2t=0.95"], out=tmp_path / "both")
    low = {"t2i": np.float32(0.8), "t2t": np.float32(0.95)}
    assert len(pairs) > 0 and all(row["similarity"] >= low[row["mode"]] for row in chosen(pairs))
    same = retrieve(embeddings, **ASKED, per_class=60, min_similarity={"t2t": 0.95, "t2i": 0.8}, out=tmp_path / "both")
    assert same.manifest.options == pairs.manifest.options
    for wrong, words in (("t2x=0.3", "t2x is none of the modes"), ("high", "is no number"), ("i2i=0.3", "i2i is none")):
        with pytest.raises(ReactvlError, match=words):
            retrieve(embeddings, **ASKED, min_similarity=[wrong], out=tmp_path / "refused")


def test_equal_classes_of_other_names_are_two(rows, embedded, text_tower, tmp_path):
    """Two classes of one display name share only if they ask for the same; else each is ranked by its own queries."""
    with pytest.warns(UserWarning, match="stay two classes"):
        pairs = retrieve(
            embedded(rows),
            classes=[["mouse", "teapot"], ["mouse", "tractor"]],
            templates=["{}"],
            per_class=6,
            out=tmp_path / "out",
        )
    prompts = [{row["prompt"] for row in pairs.by_class(number).table().to_pylist()} for number in (0, 1)]
    assert "teapot" in prompts[0] and "tractor" in prompts[1] and not {"teapot", "tractor"} <= prompts[0] & prompts[1]


HOSTILE = [
    "../../etc/passwd",
    "<b>b</b>",
    "{}",
    "a'b\"c; DROP TABLE",
    "パンダ",
    "🐼",
    "x" * 300,
    "%s %(n)s",
    "a\\b",
    "=1+1",
]


def test_hostile_class_names(rows, embedded, text_tower, tmp_path):
    """Names are text everywhere: in prompts, tables, matches and files."""
    for row, name in zip(rows, HOSTILE, strict=False):
        row.caption = f"see {name} here"
    embeddings = embedded(rows)
    pairs = retrieve(
        embeddings,
        classes=HOSTILE,
        templates=["a picture of {}"],
        modes=["t2i", "match"],
        per_class=3,
        rivals="finders",
        out=tmp_path / "out",
    )
    assert pairs.classes == HOSTILE and {path.name for path in tmp_path.iterdir()} >= {"out"}
    assert text_tower == [f"a picture of {name}" for name in HOSTILE]
    matched = pq.read_table(tmp_path / "out/hits.parquet").to_pylist()
    queries = pq.read_table(tmp_path / "out/queries.parquet").to_pylist()
    names = {queries[hit["query"]]["name"] for hit in matched if MODES[hit["mode"]] == "match"}
    assert names == set(HOSTILE) - {"{}", "🐼"}  # those two have no letter to look for
    assert len(pairs) == len(pairs.table()) > 10


def test_stopped_anywhere_it_ends_in_the_same_bytes(rows, embedded, text_tower, tmp_path, monkeypatch):
    """Stopped at every write of the work folder and of the result in turn, with all that can be asked for at once."""
    import reactvl.manifest as manifest

    embeddings = embedded(rows)
    asked = {
        **ASKED,
        "per_class": 25,
        "per_prompt": 4,
        "modes": ["t2i", "t2t", "match"],
        "fusion": "rrf",
        "top_up": True,
        "where": "length(caption) < 40",
    }
    whole = retrieve(embeddings, **asked, out=tmp_path / "whole")
    writes = []
    plain = manifest.os.replace

    def count(*paths):
        writes.append(paths)
        plain(*paths)

    monkeypatch.setattr(manifest.os, "replace", count)
    retrieve(embeddings, **asked, out=tmp_path / "counted")
    total = len(writes)
    assert total > 12
    stop = 0

    def stopping(*paths):
        nonlocal stop
        stop -= 1
        if stop == 0:
            raise KeyboardInterrupt
        plain(*paths)

    monkeypatch.setattr(manifest.os, "replace", stopping)
    for at in range(1, total, 4):
        stop, out = at, tmp_path / f"stopped-{at}"
        with pytest.raises(KeyboardInterrupt):
            retrieve(embeddings, **asked, out=out)
        assert not (out / "manifest.json").exists()
        if (out / ".work/result").is_dir():  # what a run leaves there that had no time to clean up
            (out / ".work/result/.pairs.parquet.1.part").write_bytes(b"half")
        retrieve(embeddings, **asked, out=out)
        assert read_manifest(out).files == whole.manifest.files
