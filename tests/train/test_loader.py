"""Batches are the same whatever makes them; what cannot be read is left out; a shard that goes is named."""

import multiprocessing
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tests_support import write_pool

from reactvl.manifest import ReactvlError
from reactvl.models import load
from reactvl.train.augmentation import Augment, AugmentationCfg, configure
from reactvl.train.loader import Loaded, Views, batches
from reactvl.train.pairs import ShardGone, TrainingPairs
from reactvl.train.sources import open_pairs
from reactvl.train.table import Table
from reactvl.train.tensor_augmentation import TensorAugment


def opened(pool: Path) -> TrainingPairs:
    return open_pairs(str(pool), work=pool.with_name(f"{pool.name}-work"))


@pytest.fixture
def pool(tmp_path):
    return write_pool(tmp_path / "pool", shards=2, pairs=12, cut=(3, 14))


def plan_of(pairs, count=4, size=7):
    draw = np.random.default_rng(0)
    return [[(int(row), int(draw.integers(3))) for row in draw.integers(0, len(pairs), size)] for _ in range(count)]


def content(loaded: Loaded) -> tuple:
    pixels, rows, bad = loaded
    return pixels.numpy().tobytes(), rows.tolist(), bad, loaded.epochs.tolist(), loaded.samples.tolist()


@pytest.mark.parametrize("kind", [Augment, TensorAugment])
def test_batches_are_the_same_bytes_for_any_number_of_workers_and_start_method(pool, small_model, kind):
    pairs, augment = opened(pool), kind(load(small_model), AugmentationCfg(), seed=1)
    plan = plan_of(pairs)
    wanted = [content(loaded) for loaded in batches(pairs, augment, plan, 1)]
    for workers in (2, 3):
        assert [content(loaded) for loaded in batches(pairs, augment, plan, workers)] == wanted
    if kind is Augment:  # a spawned worker takes seconds to begin
        assert [content(loaded) for loaded in batches(pairs, augment, plan, 1, start_method="spawn")] == wanted
    assert isinstance(pickle.loads(pickle.dumps(augment)), kind)


def test_a_batch_holds_the_plans_rows_without_the_unreadable_ones(pool, small_model):
    pairs, augment = opened(pool), Augment(load(small_model), configure(["none"]), seed=1)
    plan = [[(5, 0), (3, 1), (20, 2), (5, 3), (14, 0)], [(3, 0)]]
    first, last = batches(pairs, augment, plan, 1)
    assert first.rows.tolist() == [5, 20, 5] and first.epochs.tolist() == [0, 2, 3]
    assert first.pixels.shape == (3, 3, 32, 32)
    pixels, rows, bad = first  # also a plain tuple of three
    assert pixels is first.pixels and rows is first.rows and bad is first.bad
    assert np.array_equal(first.samples, pairs.samples()[[5, 20, 5]])
    assert set(first.bad) == {3, 14} and all(":" in why for why in first.bad.values())
    assert len(last.rows) == 0 and set(last.bad) == {3}
    seen = load(small_model).preprocess
    from io import BytesIO

    from PIL import Image

    from reactvl.pool.reader import read_image

    wanted = torch.stack([seen(Image.open(BytesIO(read_image(*pairs.place(row))))) for row in (5, 20, 5)])
    assert (first.pixels - wanted).abs().max() <= 2.01 / 255 / 0.26  # `pool.images`: within 2 of 255


def test_what_is_pickled_for_a_worker_is_small_whatever_the_number_of_pairs(pool, small_model):
    pairs, augment = opened(pool), Augment(load(small_model), AugmentationCfg(), seed=1)
    few, many = (
        len(pickle.dumps(Views(Table.of(pairs.take(rows)), augment)))
        for rows in (np.arange(20), np.zeros(200_000, np.int64))
    )
    assert few == many < 50_000
    table = Table.of(pairs)
    again = pickle.loads(pickle.dumps(table))
    assert isinstance(again.seed, np.memmap) and np.array_equal(again.seed, table.seed)
    assert [again.path(shard) for shard in (0, 1)] == [str(path) for path in pairs.shards]


def test_the_file_of_a_pickled_table_goes_with_it(pool):
    table = Table.of(opened(pool))
    folder = table.__reduce__()[1][0]
    assert os.path.isdir(folder)  # noqa: PTH112
    del table
    assert not os.path.exists(folder)  # noqa: PTH110


@pytest.mark.parametrize("how", ["removed", "cut", "rewritten"])
def test_a_shard_that_goes_or_changes_under_the_run_is_named(pool, small_model, how):
    pairs, augment = opened(pool), Augment(load(small_model), configure(["simple"]), seed=1)
    made = batches(pairs, augment, [[(row, 0)] for row in [0] * 8 + [13] * 8], 1)
    assert next(made).rows.tolist() == [0]  # at most 4 are made ahead: none of the second shard
    shard = pool / "00001.tar"
    if how == "removed":
        shard.unlink()
    elif how == "cut":
        os.truncate(shard, 512)
    else:
        data = bytearray(shard.read_bytes())
        data[600] ^= 1
        shard.write_bytes(data)
        os.utime(shard, ns=(1, 1))
    with pytest.raises(ShardGone, match=r"00001\.tar.*(gone|changed)"):
        list(made)
    assert not multiprocessing.active_children()


def test_a_shard_that_was_only_touched_is_the_same(pool, small_model):
    from dataclasses import replace

    from reactvl.pool.tars import fingerprint

    pairs, augment = opened(pool), Augment(load(small_model), configure(["simple"]), seed=1)
    pairs = replace(pairs, prints=[fingerprint(path) for path in pairs.shards])
    for path in pairs.shards:
        os.utime(path, ns=(5, 5))
    assert [loaded.rows.tolist() for loaded in batches(pairs, augment, [[(0, 0), (13, 0)]], 1)] == [[0, 13]]


def test_a_missing_shard_is_named_before_any_worker_starts(pool, small_model):
    pairs, augment = opened(pool), Augment(load(small_model), configure(["simple"]), seed=1)
    shutil.rmtree(pool)
    with pytest.raises(ShardGone, match=r"00000\.tar"):
        next(batches(pairs, augment, [[(0, 0)]], 1))


class Failing:
    """An augmentation with a fault of its own, or that takes its process down."""

    sample_bytes = 1

    def __init__(self, how):
        self.how = how

    def in_worker(self, data, epoch, sample):
        if self.how == "die":
            os._exit(1)
        raise ZeroDivisionError("a fault of the program")


def test_workers_end_with_an_early_close_and_with_a_fault(pool, small_model):
    pairs, augment = opened(pool), Augment(load(small_model), configure(["simple"]), seed=1)
    made = batches(pairs, augment, plan_of(pairs, 20), 2)
    next(made)
    assert multiprocessing.active_children()
    made.close()
    assert not multiprocessing.active_children()
    with pytest.raises(ZeroDivisionError, match="a fault of the program"):
        list(batches(pairs, Failing("raise"), plan_of(pairs), 1))
    with pytest.raises(ReactvlError, match="shm-size"):
        list(batches(pairs, Failing("die"), plan_of(pairs), 1))
    assert not multiprocessing.active_children()
    assert list(batches(pairs, augment, [], 1)) == []
