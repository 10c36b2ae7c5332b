"""Several processes have the loss and the gradients of one process with the whole batch."""

import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import SEARCHED

from reactvl.manifest import ReactvlError
from reactvl.train.distributed import World

SCRIPT = Path(__file__).with_name("several_processes.py")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What 1, 2 and 4 processes find."""
    home, results = tmp_path_factory.mktemp("processes"), {}
    for size in (1, 2, 4):
        path = home / f"{size}.npz"
        command = [sys.executable, str(SCRIPT), str(size), str(path), str(free_port())]
        ended = subprocess.run(
            command, capture_output=True, text=True, env=SEARCHED | {"OMP_NUM_THREADS": "1"}, timeout=300
        )
        assert path.exists(), ended.stderr
        with np.load(path) as stored:
            results[size] = dict(stored)
    return results


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(
    "case", ["locked", "trained", "siglip", "siglip-trained", "pieces", "trained-pieces", "clipped"]
)
def test_loss_and_gradients_are_those_of_one_process(found, case, size):
    """Unreadable pictures leave the processes with parts of unequal size, one of four with none at all."""
    one, several = found[1], found[size]
    names = [name for name in one if name.startswith(f"{case} ")]
    assert names == [name for name in several if name.startswith(f"{case} ")]
    assert any("visual.proj" in name for name in names)
    assert any("token_embedding" in name for name in names) == ("trained" in case)
    for name in names:
        # sums of float32 in another order: about 1e-7 of the largest term each
        assert np.allclose(several[name], one[name], rtol=1e-4, atol=1e-5 * np.abs(one[name]).max()), name


@pytest.mark.parametrize(("whole", "pieces"), [("locked", "pieces"), ("trained", "trained-pieces")])
def test_pieces_equal_one_large_batch(found, whole, pieces):
    for name, value in found[1].items():
        if name.startswith(f"{whole} "):
            other = found[1][name.replace(whole, pieces, 1)]
            assert np.allclose(other, value, rtol=1e-4, atol=1e-5 * np.abs(value).max()), name


def test_parts_cover_all_in_order():
    for count in (0, 1, 5, 12, 17):
        for size in (1, 2, 4, 7):
            parts = [World(rank, size).part(count) for rank in range(size)]
            assert [row for part in parts for row in range(count)[part]] == list(range(count))
            assert max(part.stop - part.start for part in parts) - min(part.stop - part.start for part in parts) <= 1


def test_what_is_not_torchruns_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ReactvlError, match="torchrun"):
        World.of_environment()
    monkeypatch.delenv("WORLD_SIZE")
    assert World.of_environment() == World.alone()
