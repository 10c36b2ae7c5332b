"""Chunks, in whatever number and order, at once or killed, end in the bytes of a run without them."""

import os
import random
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from killing import files, kill_when, results, start

from reactvl.embed import chunks, embed
from reactvl.embed.chunks import Chunk, parse
from reactvl.manifest import ReactvlError
from reactvl.models import load

OPTIONS = {"threads": 1, "batch_size": 4, "part_rows": 10}


@given(st.integers(0, 200), st.integers(1, 300))
def test_every_shard_is_in_exactly_one_chunk(shards, count):
    shares = [parse(f"{number}/{count}").of(range(shards)) for number in range(1, count + 1)]
    assert sorted(shard for share in shares for shard in share) == list(range(shards))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["", "3", "0/3", "4/3", "-1/3", "1/0", "1/3/", "a/b", " 1/3", "1/1e3", "٣/٨"])
def test_another_spelling_is_refused(text):
    with pytest.raises(ReactvlError, match="write I/N"):
        parse(text)


@pytest.fixture(scope="module")
def made(model, picture, tmp_path_factory):
    """A pool of five shards, and its embeddings without chunks."""
    from reactvl.pool.writer import ShardWriter

    home = tmp_path_factory.mktemp("chunks")
    with ShardWriter(home / "pool", max_count=3) as writer:
        for number in range(14):
            writer.write(picture(number), "jpg", f"thing {number % 5}", {"number": number if number < 9 else "many"})
    embed(str(home / "pool"), model, out=home / "whole", **OPTIONS)
    return home


@pytest.fixture(scope="module")
def loaded(model):
    return load(model)


@settings(max_examples=6, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(st.integers(2, 7).flatmap(lambda count: st.permutations(range(1, count + 1))))
def test_any_chunks_in_any_order_are_the_whole(made, loaded, order):
    out, count = Path(mkdtemp(dir=made)), len(order)  # beside the pool, as the whole: its path is written relative
    ends = [embed(str(made / "pool"), loaded, out=out, chunk=f"{number}/{count}", **OPTIONS) for number in order]
    whole = next(place for place, end in enumerate(ends) if end is not None)
    assert all(end is None for end in ends[:whole]) and all(end is not None for end in ends[whole:])
    assert sum(len(Chunk(number, count).of(range(5))) for number in order[: whole + 1]) == 5
    assert files(out) == files(made / "whole")


def test_chunks_at_once_of_which_some_are_killed(made, model):
    out, chance = Path(mkdtemp(dir=made)), random.Random(os.getpid())
    runs = [start(made / "pool", model, out, chunk=f"{number}/3", **OPTIONS) for number in (1, 2, 3)]
    killed = chance.randrange(3)
    kill_when(runs[killed], lambda: results(out) >= 1)
    for number, run in enumerate(runs):
        run.join()
        assert number == killed or run.exitcode == 0
    if not (out / "manifest.json").exists():
        embed(str(made / "pool"), model, out=out, chunk=f"{killed + 1}/3", **OPTIONS)
    assert files(out) == files(made / "whole")


def test_a_run_without_chunk_ends_what_chunks_began(made, loaded, capsys):
    out = Path(mkdtemp(dir=made))
    assert embed(str(made / "pool"), loaded, out=out, chunk="2/4", **OPTIONS) is None
    assert "4 of 5 shards are to do" in capsys.readouterr().out
    embed(str(made / "pool"), loaded, out=out, **OPTIONS)
    assert "1 of them done before" in capsys.readouterr().out
    assert files(out) == files(made / "whole")
    assert embed(str(made / "pool"), loaded, out=out, chunk="1/4", **OPTIONS) is not None


def test_a_chunk_that_runs_is_left_alone(made, loaded):
    pool, out = str(made / "pool"), Path(mkdtemp(dir=made))
    embed(pool, loaded, out=out, chunk="1/4", **OPTIONS)
    request = next(chunks.home(out).iterdir()).name.split("-")[0]
    with chunks.claimed(out, Chunk(1, 4), request):
        with pytest.raises(ReactvlError, match="chunk 1/4 is being embedded by another process"):
            embed(pool, loaded, out=out, chunk="1/4", **OPTIONS)
        with pytest.raises(ReactvlError, match="chunk 1/4 is being embedded by another process; wait"):
            embed(pool, loaded, out=out, **OPTIONS)
        with pytest.raises(ReactvlError, match="chunk 1/4 is being embedded by another process with other options"):
            embed(pool, loaded, out=out, chunk="2/4", **OPTIONS | {"batch_size": 5})
        for number in (2, 3, 4):  # the folder is not taken from under the one that runs
            assert embed(pool, loaded, out=out, chunk=f"{number}/4", **OPTIONS) is None
        assert not (out / "manifest.json").exists()
    assert embed(pool, loaded, out=out, chunk="1/4", **OPTIONS) is not None
    assert files(out) == files(made / "whole")
