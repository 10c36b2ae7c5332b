"""docs/training-at-scale.md's run in two processes, typed as it stands there, on a small pool and a small model of those names."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import SEARCHED
from tests_support import write_pool

from reactvl.cli import main
from reactvl.manifest import read_manifest

GUIDE = Path(__file__).parents[2] / "docs" / "training-at-scale.md"
TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
]  # the guide's `torchrun`, whose folder is perhaps not searched


@pytest.fixture
def home(tmp_path, small_model, monkeypatch) -> Path:
    shutil.copytree(small_model, tmp_path / "demo/base")
    write_pool(tmp_path / "demo/pool", shards=2, pairs=24)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_two_processes_on_a_cpu(home):
    [block] = [block for block in re.findall(r"```sh\n(.*?)```", GUIDE.read_text(), re.DOTALL) if "demo/pool" in block]
    *before, train = [shlex.split(line) for line in block.splitlines()]
    for words in before:
        assert words[0] == "reactvl" and main(words[1:]) == 0
    assert train[0] == "torchrun"
    done = subprocess.run(
        [*TORCHRUN, *train[1:]], capture_output=True, text=True, env=SEARCHED | {"OMP_NUM_THREADS": "1"}, timeout=300
    )
    out = home / "run/customized"
    assert (out / "manifest.json").exists(), done.stderr  # gloo may abort at exit, after all work is done
    manifest = read_manifest(out)
    assert (manifest.facts["processes"], manifest.facts["global_batch"]) == (2, 16)
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [0, 1]
