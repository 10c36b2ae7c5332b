"""Probes of a model on a task, a draw at a time: each is kept until the evaluation ends, so that a stopped run goes on behind
the last one."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from reactvl.evaluate import probes
from reactvl.evaluate.candidates import Candidate
from reactvl.evaluate.columns import Column
from reactvl.evaluate.evidence import Evidence
from reactvl.evaluate.features import Features
from reactvl.evaluate.probes import Probed
from reactvl.evaluate.sources import TaskImages
from reactvl.manifest import replacing, sha256_json
from reactvl.progress import progress
from reactvl.tasks import Task

if TYPE_CHECKING:
    from reactvl.evaluate.scoring import Answers

FOLDER = "probes"  # of the stage's work folder


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model on a task: its `features` of the images `test` to score, the images `train` to learn from, and the folder `work`
    in which draws are kept."""

    task: Task
    candidate: Candidate
    test: TaskImages
    features: Features
    train: TaskImages
    evidence: Evidence
    work: Path


class Kept(msgspec.Struct):
    """What stands beside the scores of one draw."""

    chosen: dict[str, float | None]
    trained: int


def answers(probe: str, columns: Sequence[Column], of: Subject) -> "dict[str, Answers]":
    """The answers of a model's probes of one kind, by the number of shots of `columns`; those that an earlier run has kept are
    taken from there."""
    from reactvl.evaluate.scoring import Answers

    made = {"linear": linear, "finetune": finetuned}[probe]
    run = made(of)
    title, total = (
        f"{columns[0].method}, {of.candidate.label} on {of.task.name}",
        sum(len(one.seeds) for one in columns),
    )
    found = {}
    # fine-tuning shows the steps of each draw itself
    with progress(title, total, "probes") if probe == "linear" else contextlib.nullcontext() as bar:
        for column in columns:
            draws = []
            for seed in column.seeds:
                name = sha256_json([of.task.name, of.candidate.id.sha256, probe, column.shots, seed])
                path = of.work / FOLDER / f"{name[:32]}.npz"
                draw = kept(path)
                if draw is None:
                    draw = single(run(column.shots, seed))
                    keep(path, *draw)
                draws.append(draw)
                if bar:
                    bar.advance()
            found[column.shots] = Answers(
                [scores for scores, _ in draws],
                of.features.rows,
                len(of.evidence.opened[of.test]),
                odds=True,
                trainable=draws[0][1].trained,
                facts={"chosen": [about.chosen for _, about in draws]},
            )
    return found


Run = Callable[[str, int], Probed]  # of shots and seed


def linear(of: Subject) -> Run:
    """Probes the stored features of the train split."""
    known = of.evidence.features(of.candidate, of.train)
    labels = of.evidence.opened[of.train].labels[known.rows]
    head = of.evidence.heads[of.candidate.label, of.task.name, "first"]
    device = of.evidence.request.machine.places[0]

    def run(shots: str, seed: int) -> Probed:
        made = probes.probe_task(
            known.vectors, labels, of.task, of.features.vectors, head, shots=[shots], seeds=[seed], device=device
        )
        return made[shots]

    return run


def finetuned(of: Subject) -> Run:
    """Tunes the image tower and the head on those pictures of the train split that could be read."""
    from reactvl.evaluate.finetune import Images, finetune_task

    machine = of.evidence.request.machine
    samples, tested = of.evidence.opened[of.train], of.evidence.opened[of.test]
    rows = of.evidence.features(of.candidate, of.train).rows
    head = of.evidence.heads[of.candidate.label, of.task.name, "first"]

    def run(shots: str, seed: int) -> Probed:
        made = finetune_task(
            of.candidate.load(),
            Images(samples.read, rows),
            samples.labels[rows],
            of.task,
            Images(tested.read, of.features.rows),
            head,
            shots=[shots],
            seeds=[seed],
            work=of.work / "finetune",
            device=machine.places[0],
            precision=machine.precision,
            threads=machine.workers,
        )
        return made[shots]

    return run


def single(made: Probed) -> tuple[np.ndarray, Kept]:
    """The scores (N, C) and the facts of a single draw."""
    return made.scores[0], Kept({name: number(value) for name, value in made.chosen[0].items()}, made.trained)


def number(value: Any) -> float | None:
    """JSON has no NaN: of a setting that nothing judged there is no score."""
    return None if np.isnan(value) else float(value)


def keep(path: Path, scores: np.ndarray, about: Kept) -> None:
    with replacing(path) as part, open(part, "wb") as file:
        np.savez(file, scores=scores, about=np.frombuffer(msgspec.json.encode(about), np.uint8))


def kept(path: Path) -> tuple[np.ndarray, Kept] | None:
    """A draw as it was kept: whole, since it was renamed at its end; None where it is not there."""
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as stored:
        return stored["scores"], msgspec.json.decode(stored["about"].tobytes(), type=Kept)
