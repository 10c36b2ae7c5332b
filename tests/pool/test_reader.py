"""Reads by offset are right from many threads, over more shards than stay open, and after a fork."""

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactvl.manifest import ReactvlError
from reactvl.pool import reader
from reactvl.pool.reader import read_image, read_many


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


SIZE = 20_000
BODIES = [os.urandom(SIZE) for _ in range(3)]


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    paths = [tmp_path_factory.mktemp("noise") / f"{number}.bin" for number in range(3)]
    for path, body in zip(paths, BODIES, strict=True):
        path.write_bytes(body)
    return paths


places = st.tuples(st.integers(0, 3), st.integers(-5, SIZE + 5), st.integers(-5, 3000) | st.just(10**13))


@settings(deadline=None, max_examples=150)
@given(
    requests=st.lists(places, max_size=60),
    order=st.sampled_from(["place", "stream"]),
    gap=st.sampled_from([0, 100, 10**6]),
    span=st.sampled_from([1, 1000, 10**6]),
    window=st.sampled_from([3, 10**6]),
)
def test_many_reads_are_single_reads(noise, requests, order, gap, span, window):
    """Each answer is what `read_image` gives or raises, whatever is joined; faults stay with their own requests."""
    asked = [([*noise, noise[0].parent / "gone"][shard], offset, size) for shard, offset, size in requests]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "SORTED_AT_ONCE", window)
        patch.setattr(reader, "STREAM_BYTES", window * 1000)
        answers = list(read_many(iter(asked), order=order, gap=gap, span=span, threads=3))
    assert sorted(number for number, _ in answers) == list(range(len(asked)))
    if order == "stream":
        assert [number for number, _ in answers] == list(range(len(asked)))
    elif window > 3:
        numbers = [number for number, _ in answers]
        assert [asked[n] for n in numbers] == sorted(asked, key=lambda one: (str(one[0]), *one[1:]))
    for number, answer in answers:
        try:
            wanted = read_image(*asked[number])
        except ReactvlError as fault:
            assert isinstance(answer, ReactvlError) and str(answer) == str(fault)
        else:
            assert answer == wanted


def test_neighbours_are_read_together(noise, monkeypatch):
    reads = []
    original = reader._Shard.read
    monkeypatch.setattr(reader._Shard, "read", lambda shard, *place: reads.append(place) or original(shard, *place))
    asked = [(noise[0], offset, 100) for offset in range(0, SIZE - 100, 200)]
    answers = dict(read_many(reversed(asked), gap=100))
    assert [answers[len(asked) - 1 - number] for number in range(len(asked))] == [
        BODIES[0][o : o + 100] for _, o, _ in asked
    ]
    assert len(reads) == 1
    reads.clear()
    assert len(list(read_many(asked, gap=99))) == len(reads) == len(asked)
    reads.clear()
    list(read_many(asked, gap=100, span=1000))
    assert all(size <= 1000 for _, size in reads) and len(reads) == len(asked) / 5


def test_reading_ahead_is_bounded_and_stops_with_its_reader(noise, monkeypatch):
    held, most = [], [0]
    original = reader._read_turn

    def counting(turn):
        held.append(sum(one.size for extent in turn for one in extent))
        return original(turn)

    monkeypatch.setattr(reader, "_read_turn", counting)
    asked = ((noise[0], number % 19_000, 1000) for number in range(100_000))
    monkeypatch.setattr(reader, "SORTED_AT_ONCE", 1000)
    answers = read_many(asked, threads=2, span=5000, gap=0)
    for taken in range(50):
        next(answers)
        most[0] = max(most[0], sum(held) - taken * 1000)
    assert most[0] <= (2 * 2 + 2) * 2 * 5000  # turns in the threads' queue, each at most two reads long
    answers.close()
    assert len(held) < 40
    assert next(asked)  # the requests were not drained


def test_a_cut_shard_harms_only_its_own_rows(tmp_path, noise):
    (tmp_path / "cut.bin").write_bytes(BODIES[1][:1500])
    asked = [
        (path, offset, 500) for offset in range(0, 3000, 500) for path in (noise[0], tmp_path / "cut.bin", noise[2])
    ]
    for number, answer in read_many(asked):
        path, offset, _ = asked[number]
        if path.name == "cut.bin" and offset >= 1500:
            assert "cut.bin: is truncated" in str(answer)
        else:
            assert answer == BODIES[{"0.bin": 0, "cut.bin": 1, "2.bin": 2}[path.name]][offset : offset + 500]
