"""Shards made of other shards' pairs: the same bytes, every class in every shard, killed runs going on, faults listed."""

import hashlib
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from reactvl.manifest import ReactvlError
from reactvl.pool.copies import balanced_order, materialize
from reactvl.pool.tars import scan
from reactvl.pool.writer import ShardWriter


def rows_of(pool, classes=3):
    rows = []
    for path in sorted(pool.glob("*.tar")):
        for sample in scan(path):
            record = {
                "class": f"class {len(rows) % classes}",
                "class_id": len(rows) % classes,
                "similarity": len(rows) / 7,
                "key": sample.key,
                "shard": path.name,
                "url": sample.url,
            }
            place = {"shard_path": path, "offset": sample.offset, "size": sample.size, "ext": sample.ext}
            rows.append({**place, "caption": sample.caption, "record": record})
    return rows


@pytest.fixture
def pool(tmp_path):
    with ShardWriter(tmp_path / "pool", max_count=20) as writer:
        for number in range(60):
            ext = ("jpg", "png", "webp")[number % 3]
            writer.write(b"%d " % number * (number + 1), ext, f"caption {number} ß界", {"url": f"u{number}"})
    return tmp_path / "pool"


def files(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_every_pair_is_copied_once_and_read_by_webdataset(pool, tmp_path):
    rows = rows_of(pool)
    counts = materialize(rows, tmp_path / "out", seed=3, per_shard=25)
    assert counts == {"pairs": 60, "shards": 3, "skipped": 0}
    assert sorted(files(tmp_path / "out")) == [f"0000{n}.{ext}" for n in range(3) for ext in ("parquet", "tar")]
    read = list(webdataset.WebDataset([str(p) for p in sorted((tmp_path / "out").glob("*.tar"))], shardshuffle=False))
    assert [one["__key__"] for one in read] == [f"0000{at // 25}{at % 25:04d}" for at in range(60)]
    wanted = {row["caption"]: (pool / row["record"]["shard"], row["offset"], row["size"]) for row in rows}
    for one in read:
        path, offset, size = wanted.pop(one["txt"].decode())
        (image,) = (body for ext, body in one.items() if ext in ("jpg", "png", "webp"))
        assert image == path.read_bytes()[offset : offset + size]
        record = json.loads(one["json"])
        assert record["source_shard"] == path.name and record["key"] == one["__key__"]
    assert not wanted


def test_the_side_file_has_img2datasets_columns(pool, tmp_path):
    materialize(rows_of(pool), tmp_path / "out", seed=3, per_shard=25)
    table = pq.read_table(tmp_path / "out" / "00001.parquet")
    assert {"url", "caption", "key", "status", "error_message", "class", "similarity"} <= set(table.column_names)
    assert table["key"].to_pylist() == [sample.key for sample in scan(tmp_path / "out" / "00001.tar")]
    assert [s.fields["class_id"] for s in scan(tmp_path / "out" / "00001.tar")] == table["class_id"].to_pylist()
    assert set(table["status"].to_pylist()) == {"success"}


def test_the_seed_decides_the_bytes(pool, tmp_path):
    rows = rows_of(pool)
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        materialize(rows, tmp_path / name, seed=seed, per_shard=25)
    assert files(tmp_path / "one") == files(tmp_path / "same")
    assert files(tmp_path / "one") != files(tmp_path / "other")


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 30), st.integers(-5, 2**70))
def test_every_shard_has_its_share_of_every_class(counts, per_shard, seed):
    classes = np.repeat(np.arange(len(counts)), counts)
    order = balanced_order(classes.tolist(), seed, per_shard)
    assert sorted(order) == list(range(len(classes)))
    for first in range(0, len(order), per_shard):
        shard = classes[order[first : first + per_shard]]
        for number, count in enumerate(counts):
            share = count * len(shard) / len(classes)
            assert abs(np.count_nonzero(shard == number) - share) <= 2 + 2 * len(counts) * count / len(classes)


def test_what_cannot_be_read_is_listed_and_keeps_its_place(pool, tmp_path):
    rows = rows_of(pool)
    rows[4]["shard_path"] = tmp_path / "gone.tar"
    rows[9]["size"] = 10**15
    rows[10]["ext"] = "svg"
    for row in rows:
        body = row["shard_path"].read_bytes() if row["shard_path"].exists() else b""
        row["record"]["sha256"] = hashlib.sha256(body[row["offset"] :][: row["size"]]).digest()
    rows[11]["record"]["sha256"] = bytes(32)
    counts = materialize(rows, tmp_path / "out", seed=3, per_shard=25)
    assert counts == {
        "pairs": 56,
        "shards": 3,
        "skipped": 4,
        "skipped: changed image": 1,
        "skipped: not an image": 1,
        "skipped: unreadable image": 2,
    }
    table = pq.read_table([str(path) for path in sorted((tmp_path / "out").glob("*.parquet"))])
    failed = table.filter(table["status"].to_numpy(zero_copy_only=False) != "success").to_pylist()
    assert {row["source_key"] for row in failed} == {rows[at]["record"]["key"] for at in (4, 9, 10, 11)}
    assert all(row["error_message"] for row in failed)
    keys = {sample.key for path in (tmp_path / "out").glob("*.tar") for sample in scan(path)}
    assert keys == set(table["key"].to_pylist()) - {row["key"] for row in failed}
    assert materialize(rows, tmp_path / "out", seed=3, per_shard=25) == counts  # read off the side files


def test_a_shard_of_another_plan_is_made_anew(pool, tmp_path):
    rows = rows_of(pool)
    materialize(rows[:50], tmp_path / "out", seed=0, per_shard=25)
    materialize(rows, tmp_path / "out", seed=0, per_shard=25)
    materialize(rows, tmp_path / "fresh", seed=0, per_shard=25)
    assert files(tmp_path / "out") == files(tmp_path / "fresh")


def test_a_killed_run_ends_in_the_same_bytes(tmp_path):
    with ShardWriter(tmp_path / "pool") as writer:
        for number in range(3000):
            writer.write(b"%d " % number * 50, "jpg", f"caption {number}")
    rows, out = rows_of(tmp_path / "pool"), tmp_path / "killed"
    (tmp_path / "rows.json").write_text(json.dumps(rows, default=str))
    code = f"import json, sys; from pathlib import Path; sys.path[:0] = {sys.path!r}; "
    code += "from reactvl.pool.copies import materialize; rows = json.load(open(sys.argv[1])); "
    code += "materialize(rows, Path(sys.argv[2]), seed=1, per_shard=100)"
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path / "rows.json", out])
    try:
        while len(list(out.glob("[0-9]*.tar")) if out.exists() else []) < 3:
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.001)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = {path.name: path.stat().st_mtime_ns for path in out.glob("[0-9]*.tar")}
    assert 3 <= len(done) < 30
    materialize(rows, out, seed=1, per_shard=100)
    assert done.items() <= {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}.items()
    materialize(rows, tmp_path / "whole", seed=1, per_shard=100)
    assert files(out) == files(tmp_path / "whole")


def test_shards_of_no_pairs_are_refused(tmp_path):
    with pytest.raises(ReactvlError, match="1 or more"):
        materialize([], tmp_path, seed=0, per_shard=0)
    assert materialize([], tmp_path / "none", seed=0) == {"pairs": 0, "shards": 0, "skipped": 0}
