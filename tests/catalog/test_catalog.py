"""A catalogue has a row for every sample of the pool, with its own bytes, whatever the shards look like."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import killed, typed
from tests_support import drawing, write_pool

from reactvl.catalog import catalog, run
from reactvl.manifest import ReactvlError
from reactvl.pool.images import decode, perceptual_hash
from reactvl.pool.tars import scan
from reactvl.pool.writer import ShardWriter


def files(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "timing.json"
    }


def test_rows_are_the_pools_samples_in_order(tmp_path):
    pool = write_pool(tmp_path / "pool", 3, 5)
    made = catalog(str(pool), out=tmp_path / "out", part_rows=7)
    wanted = [(path.name, sample) for path in sorted(pool.glob("*.tar")) for sample in scan(path)]
    rows = made.table().to_pylist()
    assert len(made) == len(rows) == 15
    for number, (row, (shard, sample)) in enumerate(zip(rows, wanted, strict=True)):
        assert (row["shard"], row["key"], row["offset"], row["size"]) == (shard, sample.key, sample.offset, sample.size)
        assert (row["caption"], row["ext"], row["sha256"]) == (sample.caption, sample.ext, None)
        assert made.read_image(number) == drawing(number, sample.ext)
    places = made.shards.to_pylist()
    assert [(row["part"], row["first_row"], row["rows"]) for row in places] == [(0, 0, 5), (1, 0, 5), (2, 0, 5)]
    assert len(made.metadata_files()) == 3
    with pytest.raises(IndexError):
        made.read_image(15)


def test_hashes_are_of_the_decoded_pictures_and_bad_ones_are_listed(tmp_path):
    pool = write_pool(tmp_path / "pool", 2, 6, cut=(3, 8))
    made = catalog(str(pool), out=tmp_path / "out", hashes=True)
    assert len(made) == 10
    for number, row in enumerate(made.table().to_pylist()):
        data = made.read_image(number)
        assert row["sha256"] == hashlib.sha256(data).digest()
        assert row["phash"] == perceptual_hash(decode(data))
        assert (row["width"], row["height"]) == (40, 44)
    assert [(row["key"], row["reason"]) for row in made.skipped.to_pylist()] == [
        ("000000003", "damaged image"),
        ("000010002", "damaged image"),
    ]
    assert made.manifest.counts["skipped: damaged image"] == 2


def test_fields_of_all_shards_become_columns_of_one_type(tmp_path):
    records = [
        {"width": 200, "aesthetic": 5, "NSFW": "UNLIKELY", "tags": ["a"], "good": True, "mixed": 1, "long": "x" * 1001},
        {"width": 300, "aesthetic": 5.5, "punsafe": float("nan"), "mixed": "one", "offset": 3, "Caption": "no"},
        {"height": 7.0, "mixed": True, "huge": 2**70, "caption": "in json", "status": "success", "good": False},
    ]
    with ShardWriter(tmp_path / "pool", max_count=1) as writer:
        for number, record in enumerate(records):
            writer.write(drawing(number), "jpg", f"c{number}", record)
    table = catalog(str(tmp_path / "pool"), out=tmp_path / "out").table()
    kinds = {name: table.schema.field(name).type for name in ("aesthetic", "NSFW", "good", "mixed", "huge", "width")}
    assert kinds == {
        "aesthetic": pa.float64(),
        "NSFW": pa.string(),
        "good": pa.bool_(),
        "mixed": pa.string(),
        "huge": pa.float64(),
        "width": pa.int32(),
    }
    assert table["mixed"].to_pylist() == ["1", "one", "true"]
    assert table["aesthetic"].to_pylist() == [5.0, 5.5, None]
    assert table["width"].to_pylist() == [200, 300, None] and table["height"].to_pylist() == [None, None, 7]
    assert not {"tags", "long", "punsafe", "Caption", "status"} & set(table.column_names)
    assert table.column_names.count("offset") == 1
    parts = [pq.read_schema(path) for path in (tmp_path / "out" / "metadata").iterdir()]
    assert all(schema.equals(table.schema) for schema in parts)


def test_captions_are_taken_from_where_they_are_asked_for(tmp_path):
    with ShardWriter(tmp_path / "pool") as writer:
        writer.write(drawing(0), "jpg", "of txt", {"caption": "of json", "alt": "of alt"})
        writer.write(drawing(1), "jpg", None, {"caption": "json alone"})
        writer.write(drawing(2), "jpg", None)
    rows = [
        {"key": "000000002", "caption": "of side", "title": "t2"},
        {"key": "000000000", "caption": "of side 0", "title": "t0"},
        {"key": "000000077", "caption": "failed", "title": "t77"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pool" / "00000.parquet")

    def captions(how):
        made = catalog(str(tmp_path / "pool"), out=tmp_path / how.replace(":", "-"), captions=how)
        return made.table(["caption"])["caption"].to_pylist()

    assert captions("auto") == ["of txt", "json alone", "of side"]
    assert captions("txt") == ["of txt", None, None]
    assert captions("json:alt") == ["of alt", None, None]
    assert captions("parquet:title") == ["t0", None, "t2"]
    with pytest.raises(ReactvlError, match="use auto, txt"):
        captions("webvtt")


def test_a_shard_that_changed_is_refused(tmp_path):
    pool = write_pool(tmp_path / "pool", 2, 4)
    made = catalog(str(pool), out=tmp_path / "out")
    assert made.read_image(0)
    path = pool / "00001.tar"
    body = bytearray(path.read_bytes())
    path.write_bytes(body[:512] + b"x" + body[513:])  # of equal size
    with pytest.raises(ReactvlError, match=r"00001.tar: has changed since it was read; run `reactvl catalog`"):
        made.read_image(5)
    with pytest.raises(ReactvlError, match="has changed"):
        made.check_pool()
    assert made.read_image(1)
    path.unlink()
    with pytest.raises(ReactvlError, match="put the pool back"):
        made.read_image(5)
    with pytest.raises(ReactvlError, match="knows no shard"):
        made.shard_path("00009.tar")


def test_a_moved_run_finds_its_pool(tmp_path):
    catalog(str(write_pool(tmp_path / "run" / "pool", 1, 3)), out=tmp_path / "run" / "catalog")
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    import reactvl as rv

    assert rv.open(tmp_path / "elsewhere" / "catalog").read_image(2) == drawing(2, "webp")


def test_a_killed_catalog_ends_in_the_same_bytes(tmp_path):
    pool = write_pool(tmp_path / "pool", 40, 12)
    out, options = tmp_path / "killed", {"hashes": True, "part_rows": 100}
    whole = catalog(str(pool), out=tmp_path / "whole", **options)
    args = ["catalog", pool, "--out", out, "--hashes", "--part-rows", 100]

    def done():
        return len(list((out / ".work" / "shards").glob("[!.]*.parquet"))) >= 3

    killed(*args, when=done)
    assert not (out / "manifest.json").exists()
    before = {path.name for path in (out / ".work" / "shards").glob("[!.]*.parquet")}
    assert 3 <= len(before) < 40
    catalog(str(pool), out=out, **options)
    assert files(out) == files(whole.folder)


def test_only_what_changed_is_done_again(tmp_path, monkeypatch):
    pool, out = write_pool(tmp_path / "pool", 4, 2), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(run, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            catalog(str(pool), out=out)
    worked = []
    original = run.catalogue_shard
    monkeypatch.setattr(
        run, "catalogue_shard", lambda task, **rest: worked.append(task.shard.name) or original(task, **rest)
    )
    (pool / "00000.tar").touch()
    pq.write_table(pa.table({"key": ["000010000"], "mood": ["glad"]}), pool / "00001.parquet")
    with ShardWriter(pool, first=3) as writer:
        writer.write(drawing(7), "jpg", "another")
    made = catalog(str(pool), out=out)
    assert worked == ["00001.tar", "00003.tar"]
    assert made.table(["mood"])["mood"].to_pylist() == [None, None, "glad", None, None, None, None]


def test_damaged_shards_are_listed(tmp_path):
    pool = write_pool(tmp_path / "pool", 2, 3)
    (pool / "00002.tar").write_bytes(np.random.default_rng(0).bytes(5000))
    (pool / "00001.parquet").write_bytes(b"PAR1 no parquet")
    made = catalog(str(pool), out=tmp_path / "out")
    assert len(made) == 6
    assert [(row["shard"], row["reason"]) for row in made.skipped.to_pylist()] == [
        ("00001.tar", "damaged side file"),
        ("00002.tar", "damaged shard"),
    ]
    with pytest.raises(ReactvlError, match="no image in 1 shards"):
        catalog(str(pool / "00002.tar"), out=tmp_path / "none")


def test_the_command(tmp_path):
    write_pool(tmp_path / "pool", 2, 3)
    args = ["catalog", "pool/{00000..00001}.tar", "--out", "out", "--workers", 2, "--captions", "json:caption"]
    done = typed(*args, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "6 samples of 2 shards" in done.stdout
    assert "up to date" in typed(*args, home=tmp_path).stdout
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["stage"] == "catalog" and manifest["counts"]["pairs"] == 6
    for bad, words in (
        ({"captions": "json"}, "json:FIELD"),
        ({"workers": 0}, "workers 0"),
        ({"part_rows": 0}, "part_rows 0"),
    ):
        with pytest.raises(ReactvlError, match=words):
            catalog(str(tmp_path / "pool"), out=tmp_path / "bad", **bad)
    refused = typed("catalog", "gone", "--out", "bad", home=tmp_path)
    assert refused.returncode == 2 and "does not exist" in refused.stderr
