"""An embed that is killed at any point ends, run again, in the bytes of one that never was."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from reactvl.embed import embed
from reactvl.embed import stage as stage_module
from reactvl.pool.writer import ShardWriter

SHARDS, PAIRS = 12, 20
OPTIONS = {"threads": 1, "batch_size": 4, "part_rows": PAIRS}  # a part a shard, so that writing them takes a while


def files(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "timing.json"
    }


def killed(pool, model, out, ready):
    """Run embed in a process of its own and kill it with SIGKILL once `ready(out)`."""
    code = f"from reactvl.embed import embed; embed({str(pool)!r}, {model!r}, out={str(out)!r}, **{OPTIONS})"
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        while not ready(out):
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (out / "manifest.json").exists()


def results(out):
    return len(list((out / ".work" / "shards").glob("[!.]*.arrow"))) if out.exists() else 0


def test_killed_runs_end_in_the_same_bytes(pool, model, tmp_path):
    shards, out = pool(SHARDS, PAIRS), tmp_path / "killed"
    embed(str(shards), model, out=tmp_path / "whole", **OPTIONS)

    chance = random.Random(os.getpid())
    done, pause = chance.randint(1, SHARDS // 2), chance.uniform(0, 0.02)
    killed(shards, model, out, lambda out: results(out) >= done and (time.sleep(pause) or True))
    assert results(out) >= done
    killed(shards, model, out, lambda out: (out / "img_emb").exists())  # while the parts are written

    embed(str(shards), model, out=out, **OPTIONS)
    assert files(out) == files(tmp_path / "whole")
    assert not (out / ".work").exists()


@pytest.fixture
def worked(monkeypatch):
    """The names of the shards that were embedded in this process."""
    names = []
    original = stage_module.embed_shard

    def counting(task, *rest):
        names.append(task.shard.name)
        return original(task, *rest)

    monkeypatch.setattr(stage_module, "embed_shard", counting)
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
