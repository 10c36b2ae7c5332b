"""Pools of URLs, typed commands, shards of the chosen pairs."""

import hashlib
import json
import tarfile
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reactvl.cli import main
from reactvl.handles.embeddings import Embeddings
from reactvl.handles.pairs import Pairs
from reactvl.manifest import ReactvlError
from reactvl.retrieve import retrieve

CLASSES = ["red panda", "teapot", "tractor"]
ASKED = {"classes": CLASSES, "templates": ["{}", "a picture of {}"]}


@pytest.fixture(autouse=True)
def quick(no_report):
    """Reports have tests of their own."""


@pytest.fixture
def rows(world):
    generator = np.random.default_rng(0)
    made = [
        world.row(world.toward(name, 2.0, generator), world.toward(name, 3.0, generator), f"a {name} {number}")
        for name in CLASSES
        for number in range(12)
    ]
    return [made[at] for at in generator.permutation(len(made))]


@pytest.fixture
def published(rows, tmp_path):
    """A folder in LAION's naming: zero-padded, float16 pictures and float32 captions in two parts, URLs and no shard."""
    folder = tmp_path / "laion"
    for name in ("img_emb", "text_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    for part, some in enumerate((rows[:20], rows[20:])):
        np.save(folder / f"img_emb/img_emb_000{part}.npy", np.stack([row.image for row in some]).astype(np.float16))
        np.save(folder / f"text_emb/text_emb_000{part}.npy", np.stack([row.text for row in some]).astype(np.float32))
        table = {
            "URL": [None if row.caption == "a teapot 3" else f"http://x/{row.caption}" for row in some],
            "TEXT": [None if row.caption == "a tractor 1" else row.caption for row in some],
            "WIDTH": [float(200 + at) for at in range(len(some))],
        }
        pq.write_table(pa.table(table), folder / f"metadata/metadata_000{part}.parquet", row_group_size=7)
    return folder


def test_a_pool_of_urls(rows, embedded, published, text_tower, tmp_path):
    """Published embeddings give the pairs that the same vectors give from shards, as img2dataset takes them."""
    pairs = retrieve(str(published), **ASKED, per_class=8, model="tiny", out=tmp_path / "urls")
    table = pairs.table()
    assert table.num_rows == 24 and {"URL", "TEXT"} <= set(table.column_names)
    assert table["shard"].null_count == table["offset"].null_count == 24
    ours = retrieve(embedded(rows), **ASKED, per_class=8, out=tmp_path / "shards").table()
    known = {row["TEXT"] or "a tractor 1" for row in table.to_pylist()}
    assert len(known & set(ours["TEXT"].to_pylist())) >= 23  # vectors of another precision may part equals
    assert pairs.manifest.facts["pool"] == "urls"
    with pytest.raises(ReactvlError, match="img2dataset"):
        Pairs(tmp_path / "urls").read_image(0)
    with pytest.raises(ReactvlError, match="pass --model"):
        retrieve(str(published), **ASKED, out=tmp_path / "no-model")
    with pytest.raises(ReactvlError, match="no pictures"):
        retrieve(str(published), **ASKED, model="tiny", materialize=True, out=tmp_path / "no-shards")
    assert not (tmp_path / "no-shards").exists()


def test_filters_and_matches_of_a_pool_of_urls(published, text_tower, tmp_path):
    pairs = retrieve(
        str(published),
        classes=CLASSES,
        modes=["match"],
        where="WIDTH >= 205",
        per_class=50,
        model="tiny",
        out=tmp_path / "out",
    )
    assert pairs.manifest.facts["captions_that_hold_a_name"] == 35  # one caption is null
    assert 20 < len(pairs) < 35 and not text_tower


def test_equal_urls_are_one_picture(rows, published, text_tower, tmp_path):
    path = published / "metadata/metadata_0000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(0, "URL", pa.array(["http://x/same"] * table.num_rows)), path)
    pairs = retrieve(str(published), **ASKED, per_class=50, model="tiny", out=tmp_path / "out")
    urls = pairs.table()["URL"].to_pylist()
    assert urls.count("http://x/same") == 1 and pairs.manifest.facts["fates_of_hits"]["duplicate"] > 0
    free = retrieve(str(published), **ASKED, per_class=50, model="tiny", dedup=["none"], out=tmp_path / "free")
    assert free.table()["URL"].to_pylist().count("http://x/same") == 20


def test_shards_of_the_chosen_pairs(rows, embedded, text_tower, tmp_path):
    """`materialize` writes the very pictures, with their classes beside them; a rerun has nothing to do."""
    pairs = retrieve(embedded(rows), **ASKED, per_class=5, materialize=True, out=tmp_path / "out")
    with tarfile.open(pairs.shards / "00000.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
    told = [json.loads(body) for name, body in members.items() if name.endswith(".json")]
    assert len(told) == 15 and sorted(one["class"] for one in told) == sorted(CLASSES * 5)
    sums = {hashlib.sha256(body).digest() for name, body in members.items() if name.endswith(".png")}
    assert sums == set(pairs.table()["sha256"].to_pylist())
    assert pairs.manifest.counts["materialized pairs"] == 15
    assert any(name.startswith("shards/") for name in pairs.manifest.files)
    before = (pairs.shards / "00000.tar").stat().st_mtime_ns
    again = retrieve(pairs.embeddings, **ASKED, per_class=5, materialize=True, out=tmp_path / "out")
    assert (again.shards / "00000.tar").stat().st_mtime_ns == before
    assert retrieve(pairs.embeddings, **ASKED, per_class=5, out=tmp_path / "view").shards is None


def test_typed(rows, embedded, text_tower, tmp_path, capsys):
    """The command line says what Python says, in its users' spellings."""
    embeddings = embedded(rows)
    (tmp_path / "classes.txt").write_text("red panda|lesser panda\nteapot\ntractor\n")
    typed = (
        f"retrieve {embeddings.folder} --classes {tmp_path}/classes.txt --templates {{}} --per-class 6 --per-prompt 9 "
    )
    typed += "--modes t2i t2t match --fusion rrf --min-similarity t2i=0.1 t2t=0.2 --dedup sha256,phash=6 --top-up "
    typed += f"--classes-per-pair margin --margin 0.2 --search auto --out {tmp_path}/typed"
    assert main([*typed.split(), "--where", "size > 10 AND caption NOT LIKE '%3'"]) == 0
    assert "through exact search" in capsys.readouterr().out
    called = retrieve(
        embeddings,
        classes=[["red panda", "lesser panda"], "teapot", "tractor"],
        templates="{}",
        per_class=6,
        per_prompt=9,
        modes=["t2i", "t2t", "match"],
        fusion="rrf",
        min_similarity=["t2i=0.1", "t2t=0.2"],
        dedup=["sha256", "phash=6"],
        top_up=True,
        classes_per_pair="margin",
        margin=0.2,
        search="auto",
        where="size > 10 AND caption NOT LIKE '%3'",
        out=tmp_path / "called",
    )
    assert Pairs(tmp_path / "typed").manifest.options == called.manifest.options
    assert Pairs(tmp_path / "typed").table().equals(called.table()) and len(called) > 6
    for wrong, words in (
        ("--classes a,b --tasks caltech-101", "both given"),
        ("", "neither given"),
        ("--tasks caltech-1o1", "caltech-101"),
        ("--classes a --modes match --min-score 3", "match alone has none"),
        ("--classes a --fusion match-rerank", "needs match and t2i"),
        ("--classes a --dedup sha1", "dedup: sha1"),
        ("--classes a --dedup phash=40", "0 to 16 bits"),
        ("--classes a --balance 0.5", "balance is 0.5"),
        ("--classes a --per-prompt 0", "per_prompt is 0"),
        ("--classes a --where SELECT", "where:"),
        ("--classes a --exclude-images nowhere", "exclude_images"),
    ):
        assert main(["retrieve", str(embeddings.folder), *wrong.split(), "--out", str(tmp_path / "wrong")]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize("flag", ["--tasks", "--dataset"])
def test_a_benchmark_by_name(rows, embedded, text_tower, tmp_path, flag):
    """Its classes and its own templates; `--dataset` is the option's older name."""
    from reactvl.tasks.benchmarks import benchmark

    known = benchmark("eurosat_clip")
    out = tmp_path / "out"
    assert (
        main(["retrieve", str(embedded(rows).folder), flag, "eurosat_clip", "--per-class", "2", "--out", str(out)]) == 0
    )
    pairs = Pairs(out)
    assert pairs.classes == known.class_names and pairs.manifest.facts["tasks"] == ["eurosat_clip"]
    assert pairs.manifest.counts["queries"] == sum(len(entry.synonyms) for entry in known.classes) * len(
        known.templates
    )
    assert text_tower[0] == known.templates[0].replace("{}", known.classes[0].synonyms[0])


def test_templates_given_go_before_a_benchmarks(rows, embedded, text_tower, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pairs = retrieve(
            embedded(rows), tasks=["eurosat_clip", "mnist"], templates=["{}"], per_class=2, out=tmp_path / "out"
        )
    assert len(pairs.classes) == 20 and len(text_tower) == pairs.manifest.counts["queries"]
    assert not any("satellite photo of" in text for text in text_tower)


def test_reopened_embeddings_are_those_that_were_searched(published, text_tower, tmp_path):
    pairs = retrieve(str(published), **ASKED, per_class=2, model="tiny", out=tmp_path / "out")
    assert isinstance(Pairs(tmp_path / "out").embeddings, Embeddings)
    np.save(published / "img_emb/img_emb_0000.npy", np.load(published / "img_emb/img_emb_0000.npy")[::-1])
    with pytest.raises(ReactvlError, match="other embeddings"):
        _ = Pairs(pairs.folder).embeddings
