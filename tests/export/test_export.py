"""An export holds the retrieved pairs' own bytes, each under a name made here, and is whole or not there."""

import hashlib
import json
import re
import shutil
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from commands import killed, typed
from hypothesis import given
from hypothesis import strategies as st

import reactvl as rv
from reactvl.export import export, files, names
from reactvl.manifest import ReactvlError, read_manifest
from reactvl.pool.tars import scan


def hashes(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "timing.json"
    }


def pairs_of(run):
    pairs = rv.Pairs(run / "retrieved")
    return pairs, pairs.table().to_pylist()


def test_scattered_files_are_the_pairs_by_class_and_rank(run, tmp_path):
    pairs, rows = pairs_of(run)
    out = export(str(run / "retrieved"), scatter=True, out=tmp_path / "out")
    folders = ["0000_red_thing", "0001_green_thing", "0002_red_thing", "0003__", "0004_blue_thing"]
    wanted = set()
    for number, row in enumerate(rows):
        stem = out / folders[row["class_id"]] / f"{row['rank']:06d}"
        assert stem.with_suffix(f".{row['ext']}").read_bytes() == pairs.read_image(number)
        assert stem.with_suffix(".txt").read_text() == row["TEXT"]
        wanted |= {stem.with_suffix(f".{row['ext']}"), stem.with_suffix(".txt")}
    found = {path for folder in out.iterdir() if folder.is_dir() for path in folder.iterdir()}
    assert found == wanted
    listed = pq.read_table(out / "files.parquet").to_pylist()
    assert [(one["class"], one["shard"], one["key"]) for one in listed] == [
        (r["class"], r["shard"], r["key"]) for r in rows
    ]
    assert all((out / one["file"]).is_file() for one in listed)
    assert read_manifest(out, "export").counts["pairs"] == len(rows)


def test_the_tree_is_the_released_codes(run, tmp_path):
    pairs, rows = pairs_of(run)
    out = export(pairs, tree=True, dataset="caltech-101", out=tmp_path / "out")
    folders = ["red_thing_0", "green_thing", "red_thing_2", "_", "blue_thing_and_azure_thing"]
    kept = {number for number, folder in enumerate(folders) if any(row["class_id"] == number for row in rows)}
    assert {path.name for path in (out / "images" / "caltech-101").iterdir()} == set(folders)
    assert {path.name for path in (out / "metas" / "caltech-101").iterdir()} == {f"{folder}.json" for folder in folders}
    hits = pq.read_table(run / "retrieved" / "hits.parquet").to_pylist()
    queries = {row["query"]: row for row in pq.read_table(run / "retrieved" / "queries.parquet").to_pylist()}
    for number in kept:
        mine = [(at, row) for at, row in enumerate(rows) if row["class_id"] == number]
        meta = json.loads((out / "metas" / "caltech-101" / f"{folders[number]}.json").read_text())
        home = out / "images" / "caltech-101" / folders[number]
        assert list(meta) == [f"{row['key']}.{row['ext']}" for _, row in mine]
        assert {path.name for path in home.iterdir()} == {*meta, *(f"{row['key']}.txt" for _, row in mine)}
        for at, row in mine:
            name = f"{row['key']}.{row['ext']}"
            assert (home / name).read_bytes() == pairs.read_image(at)
            assert meta[name]["shard"] == row["shard"]
            wanted = [
                {"query": queries[hit["query"]]["prompt"], "dist": hit["score"]}
                for hit in hits
                if (hit["part"], hit["row"]) == (row["part"], row["row"])
                and queries[hit["query"]]["class_id"] == row["class_id"]
            ]
            order = lambda one: (one["query"], one["dist"])  # noqa: E731
            assert sorted(meta[name]["search_meta"], key=order) == sorted(wanted, key=order) and wanted


def test_shards_hold_every_class_and_are_read_as_a_pool(run, tmp_path):
    pairs, rows = pairs_of(run)
    out = export(str(run / "retrieved"), shards=True, per_shard=10, seed=1, out=tmp_path / "out")
    pool = rv.open(out)
    assert len(pool) == len(rows) and len(pool.shards) == -(-len(rows) // 10)
    read = list(webdataset.WebDataset([str(path) for path in pool.shards], shardshuffle=False))
    by_source = {(one["source_shard"], one["source_key"], one["class_id"]): one for one in fields(pool)}
    assert len(by_source) == len(read) == len(rows)
    for number, row in enumerate(rows):
        one = by_source[row["shard"], row["key"], row["class_id"]]
        assert (one["class"], one["prompt"], one["caption"]) == (row["class"], row["prompt"], row["TEXT"])
        image = next(sample[row["ext"]] for sample in read if sample["__key__"] == one["key"])
        assert image == pairs.read_image(number)
    first = Counter(sample.fields["class_id"] for sample in scan(pool.shards[0]))
    assert len(first) == len({row["class_id"] for row in rows})
    other = export(str(run / "retrieved"), shards=True, per_shard=10, seed=2, out=tmp_path / "other")
    assert hashes(other)["00000.tar"] != hashes(out)["00000.tar"]


def fields(pool):
    for path in pool.shards:
        for sample in scan(path):
            yield {**sample.fields, "key": sample.key, "caption": sample.caption}


@pytest.fixture
def own(run, tmp_path):
    """A copy of the run that a test may damage."""
    return shutil.copytree(run, tmp_path / "own")


def test_a_picture_that_changed_is_listed_and_a_shard_that_changed_is_refused(own):
    _, rows = pairs_of(own)
    # the manifest's fingerprint covers the shard's ends: a change in the middle shows only in the picture's own hash
    table = pq.read_table(own / "retrieved" / "pairs.parquet")
    sums = [bytes(32) if at == 3 else row["sha256"] for at, row in enumerate(rows)]
    pq.write_table(
        table.set_column(table.schema.get_field_index("sha256"), "sha256", pa.array(sums, pa.binary(32))), own / "p"
    )
    (own / "p").replace(own / "retrieved" / "pairs.parquet")
    for layout in ("scatter", "tree", "shards"):
        out = export(str(own / "retrieved"), out=own / layout, **{layout: True})
        counts = read_manifest(out, "export").counts
        assert (counts["pairs"], counts["skipped: changed image"]) == (len(rows) - 1, 1)
        assert pq.read_table(out / "skipped.parquet").num_rows == 1
    (own / "pool" / "00001.tar").write_bytes(b"other")
    with pytest.raises(ReactvlError, match=r"00001.tar: has changed"):
        export(str(own / "retrieved"), scatter=True, out=own / "again")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "ask for one of --scatter, --tree and --shards"),
        ({"scatter": True, "tree": True}, "only"),
        ({"shards": True, "per_shard": 0}, "per_shard 0"),
        ({"shards": True, "seed": -1}, "seed -1"),
        ({"tree": True, "dataset": "../x"}, "name of a folder"),
        ({"tree": True, "dataset": ""}, "name of a folder"),
    ],
)
def test_bad_options_stop_at_once(run, tmp_path, options, words):
    with pytest.raises(ReactvlError, match=words):
        export(str(run / "retrieved"), out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ReactvlError, match="no stage's output"):
        export(str(run / "pool"), scatter=True, out=tmp_path / "out")


@pytest.mark.parametrize("layout", ["scatter", "tree", "shards"])
def test_a_killed_export_ends_in_the_same_bytes(run, tmp_path, layout, monkeypatch):
    """Stopped after the second class or shard, with a half-written file left behind."""
    whole = export(str(run / "retrieved"), out=tmp_path / "whole", per_shard=4, **{layout: True})
    from reactvl.pool import copies

    home, name = (copies, "write_shard") if layout == "shards" else (files, "write_class")
    original, count = getattr(home, name), []

    def stopping(*args):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(home, name, stopping)
        with pytest.raises(KeyboardInterrupt):
            export(str(run / "retrieved"), out=tmp_path / "out", per_shard=4, **{layout: True})
    assert not (tmp_path / "out" / "manifest.json").exists()
    (tmp_path / "out" / ".00002.tar.9.part").write_bytes(b"half")
    export(str(run / "retrieved"), out=tmp_path / "out", per_shard=4, **{layout: True})
    assert hashes(tmp_path / "out") == hashes(whole)


def test_the_command_killed_and_typed_again(run, tmp_path):
    whole = export(str(run / "retrieved"), scatter=True, out=tmp_path / "whole")
    args = ["export", run / "retrieved", "--scatter", "--out", tmp_path / "out"]
    killed(*args, when=lambda: (tmp_path / "out" / "0001_green_thing").exists())
    done = typed(*args)
    assert done.returncode == 0, done.stderr
    assert "pairs in 5 classes" in done.stdout
    assert hashes(tmp_path / "out") == hashes(whole)
    assert "up to date" in typed(*args).stdout
    assert typed("verify", tmp_path / "out").returncode == 0
    refused = typed("export", run / "retrieved", "--out", tmp_path / "none")
    assert refused.returncode == 2 and len(refused.stderr.strip().splitlines()) == 1


words = st.text("abAB cC./\\_-ß界\0", max_size=6)


@given(st.lists(st.lists(words, min_size=1, max_size=3), min_size=1, max_size=12))
def test_class_folders_are_plain_and_distinct_on_any_disk(classes):
    folders = names.class_folders(classes)
    assert len({folder.lower() for folder in folders}) == len(classes)
    assert all(re.fullmatch(r"[0-9A-Za-z_]+", folder) and len(folder) < 150 for folder in folders)


@given(st.lists(st.tuples(st.sampled_from(["0.tar", "1.tar"]), words), unique=True, min_size=1, max_size=12))
def test_file_names_are_plain_and_distinct_on_any_disk(places):
    made = names.file_names(places)
    assert len({name.lower() for name in made}) == len(places)
    assert all(re.fullmatch(r"[0-9A-Za-z_]+(-[0-9a-f]{12})?", name) for name in made)


def test_the_suffix_is_the_index_also_where_a_class_is_named_so():
    assert names.class_folders([["missile"], ["dog"], ["Missile"]]) == ["missile_0", "dog", "Missile_2"]
    assert names.class_folders([["missile_2"], ["missile"], ["missile"]]) == ["missile_2_0", "missile_1", "missile_2_2"]
    assert names.class_folders([["great", "big one"], ["x" * 500]]) == ["great_and_big_one", "x" * 100]
