"""Pairs of webdatasets by pattern, with factors, from kept catalogues, local and remote."""

import multiprocessing
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests_support import drawing, write_pool

from reactvl.manifest import ReactvlError
from reactvl.models import load
from reactvl.pool.reader import read_image
from reactvl.pool.tars import scan
from reactvl.pool.writer import ShardWriter
from reactvl.train import sources, storage
from reactvl.train.augmentation import Augment, configure
from reactvl.train.loader import batches
from reactvl.train.order import Order
from reactvl.train.pairs import ShardGone, TrainingPairs, hashes
from reactvl.train.sources import open_pairs


def scanned_pairs(pool: Path) -> TrainingPairs:
    """The reference: one scan of every shard, one after another."""
    shards = sorted(pool.glob("*.tar"))
    found = [(number, sample) for number, path in enumerate(shards) for sample in scan(path) if sample.caption]
    return TrainingPairs(
        shards,
        np.array([number for number, _ in found], np.int32),
        np.array([sample.offset for _, sample in found], np.int64),
        np.array([sample.size for _, sample in found], np.int64),
        [sample.key for _, sample in found],
        [sample.caption for _, sample in found],
    )


@pytest.fixture
def pool(tmp_path):
    return write_pool(tmp_path / "pool", shards=3, pairs=6)


@pytest.fixture
def bucket(pool):
    """The pool in a store that is no local folder."""
    store = fsspec.filesystem("memory")
    for path in pool.glob("*.tar"):
        store.pipe_file(f"/bucket/{path.name}", path.read_bytes())
    yield store
    store.rm("/bucket", recursive=True)


def content(pairs):
    return [
        (pairs.shards[pairs.shard[row]].name, pairs.keys[row], pairs.captions[row], *pairs.place(row)[1:])
        for row in range(len(pairs))
    ]


@pytest.mark.parametrize(
    "spelled", ["{}/{{00000..00002}}.tar", "{}/*.tar", "{}", "{0}/00000.tar::{0}/{{00001,00002}}.tar"]
)
def test_every_spelling_gives_the_pairs_of_the_shards(pool, tmp_path, spelled):
    pairs, wanted = open_pairs(spelled.format(pool), work=tmp_path / "work"), scanned_pairs(pool)
    assert content(pairs) == content(wanted) and len(pairs) == 18
    assert np.array_equal(pairs.samples(), wanted.samples())
    assert np.array_equal(pairs.pictures(), wanted.pictures())
    assert pairs.repeats is None
    assert content(open_pairs([str(pool / f"0000{at}.tar") for at in range(3)], work=tmp_path / "work")) == content(
        wanted
    )


def test_a_second_start_scans_nothing_and_makes_damaged_catalogues_again(pool, tmp_path, monkeypatch):
    first, scanned = open_pairs(str(pool), work=tmp_path / "work"), []
    scan = sources.catalogue
    monkeypatch.setattr(sources, "catalogue", lambda path: (scanned.append(path.name), scan(path))[1])
    assert content(open_pairs(str(pool), work=tmp_path / "work")) == content(first) and not scanned
    kept = sorted((tmp_path / "work" / "catalogues").iterdir())
    kept[0].write_bytes(kept[0].read_bytes()[:-40])
    data = bytearray(kept[1].read_bytes())
    data[40] ^= 0x55  # within a page
    kept[1].write_bytes(data)
    assert content(open_pairs(str(pool), work=tmp_path / "work")) == content(first) and len(scanned) == 2
    write_pool(tmp_path / "other", shards=1, pairs=5)
    shutil.copy(tmp_path / "other" / "00000.tar", pool / "00001.tar")  # another shard under a known name
    scanned.clear()
    assert len(open_pairs(str(pool), work=tmp_path / "work")) == 17 and scanned == ["00001.tar"]


def test_many_shards_are_catalogued_by_processes_to_the_same_pairs(tmp_path):
    pool = write_pool(tmp_path / "pool", shards=10, pairs=2)
    assert content(open_pairs(str(pool), work=tmp_path / "work")) == content(scanned_pairs(pool))


def test_what_is_left_out_is_counted_by_reason(tmp_path, capsys):
    with ShardWriter(tmp_path / "pool", max_count=10) as writer:
        writer.write(drawing(0), "jpg", "a caption", {"status": "success"})
        writer.write(drawing(1), "jpg", None, {"status": "success"})
        writer.write(drawing(2), "jpg", "", None)
        writer.write(drawing(3), "jpg", "a caption", {"status": "failed_to_download"})
    pairs = open_pairs(str(tmp_path / "pool"), work=tmp_path / "work")
    assert len(pairs) == 1 and pairs.skipped == {"no caption": 2, "download failed": 1}
    assert "1 pairs in 1 shards; left out 2 no caption, 1 download failed" in capsys.readouterr().out
    assert open_pairs(str(tmp_path / "pool"), work=tmp_path / "work").skipped == pairs.skipped


def test_factors_say_how_often_a_source_stands_in_a_pass(pool, tmp_path):
    text = f"{pool}/00000.tar::{pool}/{{00001,00002}}.tar"
    pairs = open_pairs(text, work=tmp_path / "work", factors="2::0.5")
    assert pairs.repeats.tolist() == [2.0] * 6 + [0.5] * 12
    order = Order(len(pairs), 6, 0, repeats=pairs.repeats)
    rows = np.concatenate([order.step(step)[0] for step in range(3)])
    assert np.bincount(rows, minlength=18)[:6].tolist() == [2] * 6 and order.length == 18
    assert open_pairs(text, work=tmp_path / "work", factors="1::1").repeats is None
    assert np.array_equal(pairs.take(np.array([0, 17])).repeats, [2.0, 0.5])


@pytest.mark.parametrize(
    ("train_data", "factors", "says"),
    [
        ("{0}/00000.tar::{0}/00001.tar", "2", "1 factors for 2 sources"),
        ("{0}/00000.tar", "1::2", "2 factors for 1 sources"),
        ("{0}/00000.tar", "-1", "above 0"),
        ("{0}/00000.tar", "nan", "above 0"),
        ("{0}/00000.tar", "two", "above 0"),
        ("{0}/00000.tar::{0}/*.tar", None, "stands in"),
        ("{0}/{{00000..00009}}.tar", None, "7 of its 10 shards are missing"),
        ("pipe:cat {0}/00000.tar", None, "shell"),
        ("{0}/00000.tar::pipe:aws s3 cp s3://b/0.tar -", None, "shell"),
        (" :: ", None, "empty"),
        ("memory://nowhere/*.tar", None, "matches no file"),
        ("memory://nowhere/00000.tar", None, "does not exist"),
        ("teleport://a/00000.tar", None, "teleport"),
    ],
)
def test_bad_sources_stop_at_once(pool, tmp_path, train_data, factors, says):
    with pytest.raises(ReactvlError, match=says):
        open_pairs(train_data.format(pool), work=tmp_path / "work", factors=factors)


def test_shards_that_are_no_shards(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"no tar" * 300)
    with pytest.raises(ReactvlError, match="holds no pair"):
        open_pairs(str(tmp_path / "a.tar"), work=tmp_path / "work")


@pytest.mark.parametrize("spelled", ["memory://bucket/{00000..00002}.tar", "memory://bucket/*.tar", "memory://bucket/"])
def test_remote_pairs_are_the_local_ones(bucket, pool, tmp_path, spelled):
    wanted = scanned_pairs(pool)
    pairs = open_pairs(spelled, work=tmp_path / "work")
    assert content(pairs) == content(wanted) and np.array_equal(pairs.samples(), wanted.samples())
    pairs.storage.hold([0, 1, 2])
    assert all(read_image(*pairs.place(row)) == read_image(*wanted.place(row)) for row in range(18))
    pairs.storage.close()


def test_a_run_over_remote_shards_has_the_window_on_disk_and_no_more(bucket, pool, tmp_path, small_model):
    size = (pool / "00000.tar").stat().st_size
    pairs = open_pairs("memory://bucket/*.tar", work=tmp_path / "work", cache_bytes=int(2.5 * size))
    assert pairs.storage.window == 1
    order = Order(18, 4, 3, shards=pairs.shard, window=1)
    augment, local = Augment(load(small_model), configure(["simple"]), seed=1), scanned_pairs(pool)

    def plan(start):
        return [list(zip(*(part.tolist() for part in order.step(step)), strict=True)) for step in range(start, 14)]

    def on_disk():
        return sum(path.stat().st_size for path in (tmp_path / "work" / "shards").rglob("*.tar"))

    wanted = [loaded.pixels.numpy().tobytes() for loaded in batches(local, augment, plan(0), 1)]
    for start in (0, 5):  # the second run goes on where a first one was killed
        pairs.storage.follow(order, start)
        seen = []
        for loaded in batches(pairs, augment, plan(start), 1):
            assert not loaded.bad
            seen.append(loaded.pixels.numpy().tobytes())
            assert on_disk() <= 4 * size  # now, next, and what batches made ahead still hold
        assert seen == wanted[start:]
        pairs.storage.close()
    again = open_pairs("memory://bucket/*.tar", work=tmp_path / "work", cache_bytes=int(2.5 * size))
    again.storage.follow(order, 0)
    again.storage.close()
    assert on_disk() <= 2 * size


def test_a_fault_of_the_store_is_tried_again_and_one_that_stays_names_the_shard(bucket, tmp_path, monkeypatch):
    pairs = open_pairs("memory://bucket/*.tar", work=tmp_path / "work")
    pairs.storage.close()
    shutil.rmtree(tmp_path / "work" / "shards")
    monkeypatch.setattr(storage, "PAUSE", 0.001)
    tries, opened = [], bucket.open

    def faulty(path, *args, **kwargs):
        tries.append(path)
        if len(tries) < 4:
            raise ConnectionResetError("the line broke")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(type(bucket), "open", lambda self, *args, **kwargs: faulty(*args, **kwargs))
    pairs.storage.hold([0])
    assert len(tries) == 4 and pairs.storage.present() == [0]
    tries.clear()
    monkeypatch.setattr(storage, "TRIES", 2)
    with pytest.raises(ShardGone, match=r"00001\.tar.*2 tries.*the line broke"):
        pairs.storage.hold([1])
    monkeypatch.undo()
    pairs.storage.release([0])
    bucket.rm("/bucket/00002.tar")
    with pytest.raises(ShardGone, match=r"00002\.tar.*has gone"):
        pairs.storage.hold([2])
    bucket.pipe_file("/bucket/00001.tar", b"short")
    monkeypatch.setattr(storage, "TRIES", 1)
    with pytest.raises(ShardGone, match=r"00001\.tar.*has changed"):
        pairs.storage.hold([1])
    assert not list((tmp_path / "work" / "shards").rglob("*.part"))
    pairs.storage.close()


def test_a_remote_shard_that_goes_under_the_run_is_named_and_no_worker_is_left(bucket, tmp_path, small_model):
    pairs = open_pairs("memory://bucket/*.tar", work=tmp_path / "work")
    pairs.storage.close()
    shutil.rmtree(tmp_path / "work" / "shards")
    bucket.rm("/bucket/00002.tar")
    augment = Augment(load(small_model), configure(["simple"]), seed=1)
    made = batches(pairs, augment, [[(row, 0)] for row in [0] * 8 + [13] * 3], 1)
    assert next(made).rows.tolist() == [0]
    with pytest.raises(ShardGone, match=r"00002\.tar.*has gone"):
        list(made)
    assert not multiprocessing.active_children() and not pairs.storage._held.total()
    pairs.storage.close()


def test_a_shard_that_another_process_holds_is_not_deleted(bucket, tmp_path):
    one = open_pairs("memory://bucket/*.tar", work=tmp_path / "work").storage
    other = open_pairs("memory://bucket/*.tar", work=tmp_path / "work").storage
    for each in (one, other):
        each.hold([0])
        each.release([0])
    one._delete(0)
    assert other.present()[:1] == [0]
    other._delete(0)
    assert 0 not in other.present()
    one.close(), other.close()


def test_a_cache_that_holds_no_two_shards_is_refused(bucket, tmp_path):
    with pytest.raises(ReactvlError, match="cannot hold two shards"):
        open_pairs("memory://bucket/*.tar", work=tmp_path / "work", cache_bytes=1000)


@given(st.lists(st.text(max_size=12), max_size=20))
def test_seeds_are_the_first_bytes_of_sha256(texts):
    from hashlib import sha256

    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    assert hashes(texts).tolist() == [int.from_bytes(sha256(text.encode()).digest()[:8], "little") for text in texts]
