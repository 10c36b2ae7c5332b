"""Answers of a run that was stopped, kept beside the file to be, so that the same command goes on behind them.

    .predictions.csv.work/3f2a.../0000000.npz, 0002048.npz, ...

The folder's name is a hash of all that the answers depend on: other pictures, another model or other classes never meet
them, and drop them. A part is whole or absent; parts count from the first picture on and without a gap.
"""

import dataclasses
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from reactvl.manifest import replacing

PART = 2048  # pictures of a part, or a batch more


@dataclasses.dataclass(frozen=True)
class Answers:
    """Of the pictures from `start` to `stop`: `rows` int64 (N,) could be read, and have `classes` int32 (N, K), best first,
    with `probabilities` float32 (N, K); `bad` are the others, (row, reason)."""

    start: int
    stop: int
    rows: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray
    bad: list[tuple[int, str]]


class Parts:
    """The parts of one request; `out` None keeps nothing."""

    def __init__(self, out: Path | None, sha256: str):
        self.home = None if out is None else out.with_name(f".{out.name}.work")
        self.folder = None if self.home is None else self.home / sha256[:32]
        self.held: list[Answers] = []

    def kept(self) -> Iterator[Answers]:
        """What an earlier run of the same request left; what one of another request left is removed."""
        if self.home is None or not self.home.is_dir():
            return
        for other in self.home.iterdir():
            if other != self.folder and other.is_dir():
                shutil.rmtree(other)
        done = 0
        while (part := read_part(self.folder / f"{done:07d}.npz", done)) is not None:
            done = part.stop
            yield part

    def add(self, answer: Answers) -> None:
        """Keep an answer; it is on disk with the next PART pictures."""
        if self.folder is None:
            return
        self.held.append(answer)
        if self.held[-1].stop - self.held[0].start >= PART:
            write_part(self.folder / f"{self.held[0].start:07d}.npz", joined(self.held))
            self.held = []

    def drop(self) -> None:
        """The file is whole: nothing to go on with."""
        if self.home is not None:
            shutil.rmtree(self.home, ignore_errors=True)


def joined(several: list[Answers]) -> Answers:
    """Neighbours as one."""
    return Answers(
        several[0].start,
        several[-1].stop,
        *(np.concatenate([getattr(one, name) for one in several]) for name in ("rows", "classes", "probabilities")),
        [entry for one in several for entry in one.bad],
    )


def write_part(path: Path, part: Answers) -> None:
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            stop=np.int64(part.stop),
            rows=part.rows,
            classes=part.classes,
            probabilities=part.probabilities,
            bad_rows=np.array([row for row, _ in part.bad], np.int64),
            bad_reasons=np.array([reason for _, reason in part.bad], np.str_),
        )


def read_part(path: Path, start: int) -> Answers | None:
    """The part that begins at `start`; None when it is absent or damaged, and then its pictures are answered anew."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            bad = list(zip(stored["bad_rows"].tolist(), stored["bad_reasons"].tolist(), strict=True))
            part = Answers(start, int(stored["stop"]), stored["rows"], stored["classes"], stored["probabilities"], bad)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    covered = sorted([*part.rows.tolist(), *(row for row, _ in bad)]) == list(range(start, part.stop))
    fits = part.classes.shape == part.probabilities.shape and len(part.classes) == len(part.rows)
    return part if covered and fits and part.stop > start else None
