"""Probes of a model on a task: from stored features to the answers of every number of shots, kept until the run ends."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING


from reactvl.evaluate.candidates import Candidate
from reactvl.evaluate.columns import Column
from reactvl.evaluate.evidence import Evidence
from reactvl.evaluate.features import Features
from reactvl.evaluate.results import Scored
from reactvl.evaluate.sources import TaskImages
from reactvl.manifest import ReactvlError

if TYPE_CHECKING:
    from reactvl.evaluate.scoring import Answers


def answers(
    probe: str,
    one: Scored,
    columns: Sequence[Column],
    candidate: Candidate,
    features: Features,
    train: TaskImages,
    evidence: Evidence,
    work: Path,
) -> "dict[str, Answers]":
    raise ReactvlError("probe: the probes are not there")
