"""The retrieve stage on small pools of known vectors over real shards."""

import hashlib
import importlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from reactvl.handles.pairs import Pairs
from reactvl.index import index
from reactvl.manifest import ModelId, ReactvlError, changed_files, read_manifest
from reactvl.options import options_of
from reactvl.retrieve import retrieve
from reactvl.retrieve.queries import MODES
from reactvl.retrieve.selection import FATES

CLASSES = ["red panda", "teapot", "tractor"]
ASKED = {"classes": CLASSES, "templates": ["{}", "a picture of {}"]}


@pytest.fixture
def report():
    """Asked for by tests that look at the report."""


@pytest.fixture(autouse=True)
def quick(request):
    if "report" not in request.fixturenames:
        request.getfixturevalue("no_report")


@pytest.fixture
def rows(world):
    """20 pairs a class (a third of the captions do not hold its name) and 60 of nothing in particular."""
    generator = np.random.default_rng(0)
    made = []
    for name in CLASSES:
        for number in range(20):
            caption = "some drawing" if number % 3 == 0 else f"clip art of a {name.title()}, {number}"
            made.append(world.row(world.toward(name, 2.0, generator), world.toward(name, 3.0, generator), caption))
    made += [
        world.row(world.toward("x", 0.0, generator), world.toward("x", 0.0, generator), f"noise {n}") for n in range(60)
    ]
    return [made[at] for at in generator.permutation(len(made))]


def test_pairs_of_the_right_classes(rows, embedded, text_tower, tmp_path):
    embeddings = embedded(rows)
    pairs = retrieve(embeddings, **ASKED, per_class=12, out=tmp_path / "retrieved")
    table = pairs.table().to_pylist()
    assert len(pairs) == 36 and [row["class_id"] for row in table] == sorted(row["class_id"] for row in table)
    right = sum("noise" not in row["TEXT"] and row["class"].title() in row["TEXT"] for row in table)
    unnamed = sum(row["TEXT"] == "some drawing" for row in table)
    assert right + unnamed == 36 and unnamed > 5  # found by what is shown, not by the name alone
    for at, row in enumerate(table):
        assert row["rank"] == at % 12
        assert row["mode"] in ("t2i", "t2t") and row["prompt"].endswith(row["class"])
        assert hashlib.sha256(pairs.read_image(at)).digest() == row["sha256"]
        place = embeddings.parts[row["part"]].metadata(["key", "shard", "url"]).slice(row["row"], 1).to_pylist()[0]
        assert (place["key"], place["shard"], place["url"]) == (row["key"], row["shard"], row["URL"])


def test_similarity_is_the_named_prompts(rows, embedded, text_tower, tmp_path):
    """`prompt`, `mode` and `similarity` name the best query of the class in that mode, and hits.parquet agrees."""
    pairs = retrieve(embedded(rows), **ASKED, per_class=5, out=tmp_path / "retrieved")
    queries = pq.read_table(tmp_path / "retrieved/queries.parquet").to_pylist()
    kept = [
        hit for hit in pq.read_table(tmp_path / "retrieved/hits.parquet").to_pylist() if FATES[hit["fate"]] == "kept"
    ]
    for row in pairs.table().to_pylist():
        finders = [
            hit
            for hit in kept
            if (hit["part"], hit["row"]) == (row["part"], row["row"])
            and queries[hit["query"]]["class_id"] == row["class_id"]
            and MODES[hit["mode"]] == row["mode"]
        ]
        best = max(finders, key=lambda hit: hit["score"])
        assert row["similarity"] == best["score"] and row["prompt"] == queries[best["query"]]["prompt"]


def test_hits_account_for_everything(rows, embedded, text_tower, tmp_path):
    pairs = retrieve(embedded(rows), **ASKED, per_class=5, per_prompt=30, out=tmp_path / "retrieved")
    hits = pq.read_table(tmp_path / "retrieved/hits.parquet")
    manifest = pairs.manifest
    assert hits.num_rows == 6 * 30 * 2 == manifest.counts["hits"]
    assert set(map(str, hits.schema.types)) <= {"int8", "int32", "int64", "float"}
    assert hits.schema.metadata[b"fates"].decode().split(",") == list(FATES)
    counted = np.bincount(hits["fate"].to_numpy(), minlength=len(FATES)).tolist()
    assert dict(zip(FATES, counted, strict=True)) == manifest.facts["fates_of_hits"]
    kept = hits.filter(np.equal(hits["fate"].to_numpy(), 0)).to_pylist()
    chosen = {(row["part"], row["row"]) for row in pairs.table(["part", "row"]).to_pylist()}
    assert {(hit["part"], hit["row"]) for hit in kept} == chosen


def test_same_bytes_again_and_nothing_done_twice(rows, embedded, text_tower, tmp_path, report):
    embeddings = embedded(rows)
    for name in ("a", "b"):
        retrieve(embeddings, **ASKED, per_class=7, out=tmp_path / name)
    assert read_manifest(tmp_path / "a").files == read_manifest(tmp_path / "b").files
    assert set(read_manifest(tmp_path / "a").files) == {
        "pairs.parquet",
        "queries.parquet",
        "hits.parquet",
        "report.html",
    }
    before = len(text_tower)
    again = retrieve(str(embeddings.folder), **ASKED, per_class=7, out=tmp_path / "a")
    assert len(text_tower) == before and len(again) == 21
    assert changed_files(tmp_path / "a") == []


def test_the_cut_into_parts_does_not_matter(rows, embedded, text_tower, tmp_path):
    """The same pool in one part and in three gives the same pairs."""
    found = []
    for parts in (1, 3):
        embeddings = embedded(rows, parts=parts, name=f"in{parts}")
        pairs = retrieve(embeddings, **ASKED, per_class=9, out=tmp_path / f"out{parts}")
        found.append(pairs.table(["class", "key", "shard", "score", "prompt", "mode", "similarity", "rank"]))
    assert found[0].equals(found[1])


def test_a_stopped_run_goes_on(rows, embedded, text_tower, tmp_path, monkeypatch):
    """Stopped before it chose: the prompts are not encoded again, and the bytes are those of a run that was not
    stopped."""
    embeddings = embedded(rows)
    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(importlib.import_module("reactvl.retrieve.choosing").Chooser, "choose", _interrupt)
        retrieve(embeddings, **ASKED, per_class=7, out=tmp_path / "a")
    assert not (tmp_path / "a/manifest.json").exists()
    before = len(text_tower)
    retrieve(embeddings, **ASKED, per_class=7, out=tmp_path / "a")
    assert len(text_tower) == before
    retrieve(embeddings, **ASKED, per_class=7, out=tmp_path / "b")
    assert read_manifest(tmp_path / "a").files == read_manifest(tmp_path / "b").files


def _interrupt(*_):
    raise KeyboardInterrupt


def test_one_picture_is_chosen_once(rows, embedded, text_tower, world, tmp_path):
    """Copies of a picture under other captions count once, in the class that they fit best."""
    generator = np.random.default_rng(1)
    image = world.toward("teapot", 4.0, generator)
    for number in range(0, 60, 3):
        rows[number] = world.row(image, world.toward(CLASSES[number % 2], 2.0, generator), f"copy {number}", art=7777)
    pairs = retrieve(embedded(rows), **ASKED, per_class=30, out=tmp_path / "retrieved", rivals="finders")
    sums = pairs.table()["sha256"].to_pylist()
    assert len(set(sums)) == len(sums)
    assert sums.count(hashlib.sha256(world.picture(7777)).digest()) == 1
    assert pairs.manifest.facts["fates_of_hits"]["duplicate"] > 0


def test_a_pair_must_fit_its_class_best(rows, embedded, text_tower, tmp_path):
    """With rivals="all" noise that lies nearer to another class is not taken, however many pairs are asked for."""
    embeddings = embedded(rows)
    strict, free = (
        retrieve(embeddings, **ASKED, per_class=60, out=tmp_path / rivals, rivals=rivals, per_prompt=nearest)
        for rivals, nearest in (("all", 120), ("finders", 25))
    )
    assert len(strict) == 120  # every pair fits some class best, and all were candidates
    assert len(free) < 120
    places = strict.table(["part", "row"]).to_pylist()
    assert len({tuple(place.values()) for place in places}) == len(places)


def test_modes_alone(rows, embedded, text_tower, tmp_path):
    embeddings = embedded(rows)
    for mode in ("t2i", "t2t"):
        pairs = retrieve(embeddings, **ASKED, per_class=10, modes=[mode], out=tmp_path / mode)
        assert set(pairs.table()["mode"].to_pylist()) == {mode}
    without = embedded(rows, texts=False, name="without")
    assert len(retrieve(without, **ASKED, per_class=10, modes=["t2i"], out=tmp_path / "without-texts")) == 30
    with pytest.raises(ReactvlError, match="has no text vectors"):
        retrieve(without, **ASKED, per_class=10, out=tmp_path / "refused")


def test_minimum_similarity(rows, embedded, text_tower, tmp_path, report):
    embeddings = embedded(rows)
    pairs = retrieve(embeddings, **ASKED, per_class=50, min_similarity=0.92, out=tmp_path / "high")
    assert 0 < len(pairs) < 60
    assert min(pairs.table()["similarity"].to_pylist()) >= np.float32(0.92)
    assert pairs.manifest.facts["fates_of_hits"]["below minimum"] > 0
    none = retrieve(embeddings, **ASKED, per_class=50, min_similarity=1.0, out=tmp_path / "highest")
    assert len(none) == 0 and none.manifest.facts["few"] == CLASSES
    assert "No pair was chosen" in (tmp_path / "highest/report.html").read_text()


def test_minimum_score(rows, embedded, text_tower, tmp_path):
    """A number of standard deviations cuts off what only fits its class better than the others."""
    embeddings = embedded(rows)
    pairs = retrieve(embeddings, **ASKED, per_class=50, min_score=2.5, out=tmp_path / "strong")
    assert 0 < len(pairs) < 120 and min(pairs.table()["score"].to_pylist()) >= 2.5
    assert not any("noise" in caption for caption in pairs.table()["TEXT"].to_pylist())
    with pytest.raises(ReactvlError, match="min_score"):
        retrieve(embeddings, **ASKED, min_score=float("nan"), out=tmp_path / "refused")


def test_exclusion_by_key_and_by_picture(rows, embedded, text_tower, tmp_path):
    embeddings = embedded(rows)
    first = retrieve(embeddings, **ASKED, per_class=5, out=tmp_path / "first").table().to_pylist()
    listed = tmp_path / "exclude.txt"
    listed.write_text(f"{first[0]['shard']}/{first[0]['key']}\n\n{first[5]['sha256'].hex().upper()}\n")
    second = retrieve(embeddings, **ASKED, per_class=5, exclude=listed, out=tmp_path / "second")
    left = {(row["part"], row["row"]) for row in second.table().to_pylist()}
    assert (first[0]["part"], first[0]["row"]) not in left and (first[5]["part"], first[5]["row"]) not in left
    assert len(second) == 15 and second.manifest.counts["excluded_pairs"] == 2
    listed.write_text("neither\n")
    with pytest.raises(ReactvlError, match="line 1"):
        retrieve(embeddings, **ASKED, exclude=listed, out=tmp_path / "third")


def test_classes_of_one_name_stay_two(rows, embedded, text_tower, tmp_path):
    with pytest.warns(UserWarning, match="stay two classes"):
        pairs = retrieve(
            embedded(rows), classes=["teapot", "tractor", "teapot"], templates=["{}"], per_class=8, out=tmp_path / "out"
        )
    assert np.bincount(pairs.table()["class_id"].to_numpy()).tolist() == [8, 8, 8]
    assert len(pairs.by_class("teapot")) == 16 and len(pairs.by_class(2)) == 8
    assert pairs.classes == ["teapot", "tractor", "teapot"]
    with pytest.raises(ReactvlError, match="no class 'kettle'"):
        pairs.by_class("kettle")


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_through_an_index(rows, embedded, text_tower, tmp_path, kind):
    embeddings = embedded(rows)
    made = index(embeddings, out=tmp_path / "index", kind=kind, recall=1.0, k=20, queries=40)
    exact = retrieve(embeddings, **ASKED, modes=["t2i"], per_class=10, out=tmp_path / "exact")
    indexed = retrieve(
        embeddings, **ASKED, modes=["t2i"], per_class=10, search=str(made.folder), out=tmp_path / "indexed"
    )
    assert indexed.table().equals(exact.table())
    assert indexed.manifest.inputs["image index"].sha256
    with pytest.raises(ReactvlError, match="holds image vectors"):
        retrieve(embeddings, **ASKED, search=str(made.folder), out=tmp_path / "both")
    texts = index(embeddings, out=tmp_path / "texts", kind=kind, keys="text", recall=1.0, k=20, queries=40)
    exact = retrieve(embeddings, **ASKED, per_class=10, out=tmp_path / "exact-both")
    sides = retrieve(embeddings, **ASKED, per_class=10, search=f"{made.folder},{texts.folder}", out=tmp_path / "sides")
    assert sides.table().equals(exact.table())
    assert sides.manifest.facts["searched_through"] == {"image": "index", "text": "texts"}
    for wrong, words in (([made.folder, made.folder], "give one of them"), ([made.folder, "exact"], "use exact, auto")):
        with pytest.raises(ReactvlError, match=words):
            retrieve(embeddings, **ASKED, modes=["t2i"], search=list(map(str, wrong)), out=tmp_path / "wrong")
    other = embedded(rows[::-1], name="other")
    with pytest.raises(ReactvlError, match="index of other embeddings"):
        retrieve(other, **ASKED, modes=["t2i"], search=str(made.folder), out=tmp_path / "wrong")


def test_what_is_refused(rows, embedded, text_tower, tmp_path, monkeypatch):
    embeddings = embedded(rows)
    for wrong, words in (
        ({"classes": []}, "no class name"),
        ({"templates": ["no place"]}, "exactly once"),
        ({"modes": ["sound"]}, "modes: sound"),
        ({"modes": []}, "modes: none"),
        ({"per_class": 0}, "per_class is 0"),
        ({"per_prompt": 0}, "per_prompt is 0"),
        ({"min_similarity": 2.0}, "cosine"),
        ({"rivals": "some"}, "rivals"),
        ({"seed": -1}, "seed"),
        ({"search": "nowhere"}, "neither exact"),
        ({"exclude": tmp_path / "absent"}, "cannot be read"),
    ):
        with pytest.raises(ReactvlError, match=words):
            retrieve(embeddings, **{**ASKED, "out": tmp_path / "out", **wrong})
    assert not (tmp_path / "out").exists()
    stranger = type("Stranger", (), {"id": ModelId("tiny", "cd" * 32, 16)})()
    monkeypatch.setattr("reactvl.models.load", lambda _: stranger)
    with pytest.raises(ReactvlError, match="is not the model"):
        retrieve(embeddings, **ASKED, out=tmp_path / "out")
    with pytest.raises(ReactvlError, match="is not the model"):
        retrieve(embeddings, **ASKED, model="tiny", out=tmp_path / "given")
    with pytest.raises(ReactvlError, match="no stage's output"):
        retrieve(str(tmp_path), **ASKED, out=tmp_path / "out")


def test_the_handle_notices_what_changed(rows, embedded, text_tower, tmp_path):
    embeddings = embedded(rows)
    out = tmp_path / "retrieved"
    retrieve(embeddings, **ASKED, per_class=5, out=out)
    assert len(Pairs(out).embeddings) == 120
    manifest = json.loads((embeddings.folder / "manifest.json").read_text())
    manifest["facts"]["anything"] = 1
    (embeddings.folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ReactvlError, match="made from other embeddings"):
        _ = Pairs(out).embeddings
    with pytest.raises(ReactvlError, match="holds another result"):
        retrieve(embeddings, **ASKED, per_class=6, out=out)
    (out / "pairs.parquet").unlink()
    with pytest.raises(ReactvlError, match=r"lacks pairs\.parquet"):
        Pairs(out)


def test_hostile_captions_are_text(rows, embedded, text_tower, tmp_path, report):
    for row in rows:
        row.caption = '<script>alert("x")</script>'
    retrieve(embedded(rows), **ASKED, per_class=3, out=tmp_path / "out")
    page = (tmp_path / "out/report.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page
    assert page.count("<h3>") == 3 and page.count("<img ") >= 9


def test_options_derive():
    assert {option.name for option in options_of(retrieve) if option.required} == {"embeddings", "out"}
    assert all(option.opt.help for option in options_of(index))


def test_auto_says_what_it_takes_and_why(rows, embedded, text_tower, tmp_path, capsys):
    """An index lies beside, and a pool this small is searched exactly all the same; a bare FAISS file is taken by name."""
    embeddings = embedded(rows)
    made = index(embeddings, out=tmp_path / "found", kind="flat", k=20, queries=40)
    asked = {**ASKED, "modes": ["t2i"], "per_class": 10}
    capsys.readouterr()
    auto = retrieve(embeddings, **asked, search="auto", out=tmp_path / "auto")
    said = capsys.readouterr().out
    assert "6 queries for 20 nearest of 120 image vectors through exact search" in said and "found about" in said
    exact = retrieve(embeddings, **asked, out=tmp_path / "exact")
    assert auto.table().equals(exact.table()) and auto.manifest.options["search"] == "auto"
    bare = tmp_path / "image.index"
    bare.write_bytes((made.folder / "index.faiss").read_bytes())
    through = retrieve(embeddings, **asked, search=str(bare), out=tmp_path / "bare")
    assert through.table().equals(exact.table()) and through.manifest.inputs["image index"].sha256
    bare.rename(tmp_path / "some.index")
    with pytest.raises(ReactvlError, match=r"call it image\.index or text\.index"):
        retrieve(embeddings, **ASKED, search=str(tmp_path / "some.index"), out=tmp_path / "unknown")
