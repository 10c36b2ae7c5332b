"""The command typed as users type it, and killed as machines kill it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SEARCHED = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "reactvl", *map(str, args)]


def typed(*args: object, home: Path | None = None) -> subprocess.CompletedProcess:
    """Run `reactvl ARGS` from a folder."""
    return subprocess.run(command(*args), capture_output=True, text=True, cwd=home, env=SEARCHED)


def killed(*args: object, when: Callable[[], bool]) -> None:
    """Run `reactvl ARGS` and kill it with SIGKILL once `when()`; AssertionError when it ends before that."""
    process = subprocess.Popen(command(*args), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=SEARCHED)
    try:
        while not when():
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.001)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
