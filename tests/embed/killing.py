"""Runs of embed in processes of their own that are killed with SIGKILL."""

import hashlib
import multiprocessing
import time
from pathlib import Path

from reactvl.embed import embed

# One server imports torch once; every run is forked from it, with no thread or model of ours in it.
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["reactvl.embed.stage", "reactvl.models.encoder"])


def start(pool: Path, model: str, out: Path, **options) -> multiprocessing.Process:
    process = context.Process(target=embed, args=(str(pool), model), kwargs={"out": out, **options})
    process.start()
    return process


def kill_when(process, ready) -> bool:
    """Kill it as soon as `ready()`; whether it was still running."""
    while process.is_alive() and not ready():
        time.sleep(0.001)
    process.kill()
    process.join()
    return process.exitcode == -9


def results(out: Path) -> int:
    """How many shards are embedded, and not yet in parts."""
    return len(list(out.glob(".work/shards/[!.]*.arrow")))


def files(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file of a result, whatever it is, but for the wall-clock figures."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "timing.json"
    }
