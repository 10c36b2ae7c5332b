"""The demo whole, from the shards to the table: minutes, so run by `make test-all`."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_both_modes_beat_the_base_on_unseen_styles(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "reactvl", "demo", "--out", tmp_path / "run"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    mean = json.loads((tmp_path / "run" / "evaluation" / "results.json").read_text())["mean"]
    for mode in ("locked-text", "gated-image"):
        assert mean[mode]["gain"]["low"] > 0
        assert mean[mode]["gain"]["difference"] >= 0.10
        assert mode in done.stdout
    assert (tmp_path / "run" / "report.html").stat().st_size < 12_000_000
