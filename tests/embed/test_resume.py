"""An embed that is killed at any point ends, run again, in the bytes of one that never was."""

import functools
import os
import random
import time

import pytest
from killing import files, kill_when, results, start

from reactvl.embed import embed
from reactvl.embed import stage as stage_module
from reactvl.pool.writer import ShardWriter

SHARDS, PAIRS = 12, 20
OPTIONS = {"threads": 1, "batch_size": 4, "part_rows": PAIRS}  # a part a shard, so that writing them takes a while


def test_killed_runs_end_in_the_same_bytes(pool, model, tmp_path):
    shards, out = pool(SHARDS, PAIRS), tmp_path / "killed"
    embed(str(shards), model, out=tmp_path / "whole", **OPTIONS)

    chance = random.Random(os.getpid())
    for most in (SHARDS // 3, SHARDS // 2, SHARDS - 2):
        done, pause = results(out) + chance.randint(1, 2), chance.uniform(0, 0.03)
        wanted = min(done, most)
        run = start(shards, model, out, **OPTIONS)
        assert kill_when(run, functools.partial(later, out, wanted, pause))
        assert results(out) >= wanted and not (out / "manifest.json").exists()
    assert kill_when(start(shards, model, out, **OPTIONS), (out / "img_emb").exists)  # while the parts are written
    assert not (out / "manifest.json").exists()

    embed(str(shards), model, out=out, **OPTIONS)
    assert files(out) == files(tmp_path / "whole")


def later(out, wanted, pause):
    """Whether so many shards are done, and a pause has passed since."""
    return results(out) >= wanted and (time.sleep(pause) or True)


def test_killed_processes_end_in_the_same_bytes(pool, model, tmp_path):
    shards, out = pool(SHARDS, PAIRS), tmp_path / "killed"
    embed(str(shards), model, out=tmp_path / "whole", **OPTIONS)
    run = start(shards, model, out, executor="processes:2", **OPTIONS)
    assert kill_when(run, lambda: results(out) >= 2)
    assert not (out / "manifest.json").exists()
    embed(str(shards), model, out=out, **OPTIONS)
    assert files(out) == files(tmp_path / "whole")


@pytest.fixture
def worked(monkeypatch):
    """The names of the shards that were embedded in this process."""
    names = []
    original = stage_module.embed_shards

    def counting(settings, worker, tasks):
        return original(settings, worker, (names.append(task.shard.name) or task for task in tasks))

    monkeypatch.setattr(stage_module, "embed_shards", counting)
    return names


def interrupted(pool, model, out, monkeypatch):
    """All shards done, killed before the parts were written."""
    with monkeypatch.context() as patch:
        patch.setattr(stage_module.parts, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            embed(str(pool), model, out=out)


def test_only_shards_that_changed_are_done_again(pool, model, picture, tmp_path, monkeypatch, worked):
    shards, out = pool(4, 3), tmp_path / "out"
    interrupted(shards, model, out, monkeypatch)
    assert len(worked) == 4
    worked.clear()
    (shards / "00000.tar").touch()  # same bytes, other time
    (shards / "00003.tar").unlink()
    with ShardWriter(shards, first=2) as writer:
        writer.write(picture(99), "jpg", "another picture")
    made = embed(str(shards), model, out=out)
    assert worked == ["00002.tar"]
    assert len(made) == 7
    made.check_pool()


def test_work_made_with_other_arithmetic_is_done_again(pool, model, tmp_path, monkeypatch, worked):
    shards, out = pool(2, 3), tmp_path / "out"
    interrupted(shards, model, out, monkeypatch)
    worked.clear()
    monkeypatch.setattr(stage_module, "choose_precision", lambda *_: "fp32")
    embed(str(shards), model, out=out, precision="auto")
    assert len(worked) in (0, 2)  # none again where auto is fp32 anyway
