"""Reads by offset are right from many threads, over more shards than stay open, and after a fork."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reactvl.manifest import ReactvlError
from reactvl.pool import reader
from reactvl.pool.reader import read_image


@pytest.fixture
def shards(tmp_path):
    paths = [tmp_path / f"{number}.tar" for number in range(reader.MAX_OPEN + 20)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 4096)
    yield paths
    reader.close_all()


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_threads_over_more_shards_than_stay_open(shards):
    def one(turn):
        number = turn * 37 % len(shards)
        return read_image(shards[number], turn % 4000, 50) == bytes([number]) * 50

    before = open_files()
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(one, range(3000)))
    assert open_files() <= before + reader.MAX_OPEN
    reader.close_all()
    assert open_files() <= before


def child(path, answers):
    answers.put(read_image(path, 5, 3))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_reads_on_even_when_the_lock_was_held(shards):
    read_image(shards[3], 0, 1)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    with reader._lock:
        process = context.Process(target=child, args=(shards[3], answers))
        process.start()
    process.join(20)
    assert process.exitcode == 0 and answers.get() == b"\3\3\3"


def test_short_and_missing_shards_are_clear_errors(shards, tmp_path):
    with pytest.raises(ReactvlError, match="expected 200 bytes, 96 left"):
        read_image(shards[0], 4000, 200)
    with pytest.raises(ReactvlError, match="cannot be read"):
        read_image(tmp_path / "none.tar", 0, 1)
    assert read_image(shards[0], 10, 0) == b""


def test_a_forgotten_shard_is_opened_anew(shards):
    assert read_image(shards[1], 0, 2) == b"\1\1"
    shards[2].replace(shards[1])
    reader.forget(shards[1])
    assert read_image(shards[1], 0, 2) == b"\2\2"
