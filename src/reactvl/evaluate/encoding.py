"""Features that are missing, made by this process or by several: each part is one process's from its first image to its
file."""

import collections
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from reactvl import scale
from reactvl.evaluate.candidates import Candidate, Reference
from reactvl.evaluate.features import Features, Part, write_part
from reactvl.evaluate.sources import Images
from reactvl.heads.features import Batch, Clock, batched, encode_batches
from reactvl.manifest import ReactvlError
from reactvl.models.encoder import Encoder
from reactvl.tasks import Samples

MAX_DECODERS = 16  # threads that decode for one process, unless more are asked for


class Machine(NamedTuple):
    """How images are encoded: the device of every process, arithmetic, batch, threads that decode for a process."""

    places: tuple[str, ...]
    precision: str  # bf16 or fp32
    batch_size: int
    workers: int | None

    @property
    def decoders(self) -> int | None:
        if self.workers is not None or len(self.places) == 1:
            return self.workers
        return max(1, min(MAX_DECODERS, len(os.sched_getaffinity(0)) // len(self.places)))


class Job(NamedTuple):
    """A part to make, of these images."""

    images: Images
    fingerprint: str
    part: Part


class Step(NamedTuple):
    """What a process reports after a batch: images done, and seconds since its last report by what they went to."""

    images: int
    data: float
    model: float


class Settings(NamedTuple):
    """What a worker process needs to know."""

    model: Reference
    sha256: str
    machine: Machine


def encode_missing(
    candidate: Candidate,
    jobs: Sequence[Job],
    machine: Machine,
    encoder: Callable[[], Encoder],
    opened: dict[Images, Samples],
    clock: Clock,
    advance: Callable[[int], None],
) -> None:
    """Make the parts of `jobs` by the candidate's image tower.

    One process uses `encoder()` and the samples that are `opened` here; several load the model by its name and find
    the images themselves, and ReactvlError says so where they find others.
    """
    if not jobs:
        return
    workers = min(len(machine.places), len(jobs))
    settings = Settings(candidate.reference, candidate.id.sha256, machine)
    here = (encoder(), opened) if workers == 1 else None
    for step in scale.stream(jobs, functools.partial(encode_jobs, settings, here), workers):
        clock.data += step.data
        clock.model += step.model
        advance(step.images)


def encode_jobs(
    settings: Settings, here: tuple[Encoder, dict[Images, Samples]] | None, worker: int, jobs: Iterable[Job]
) -> Iterator[Step]:
    """Encode parts one behind the other without a gap between them, and write each when its last image is done."""
    machine = settings.machine
    encoder, opened = here or (loaded(settings, worker), {})
    running: collections.deque[Making] = collections.deque()

    def batches():
        for job in jobs:
            samples = opened_samples(job, opened)
            running.append(Making(job.part, samples.names, encoder.model.id.dim))
            for rows in batched(range(job.part.first, job.part.stop), machine.batch_size):
                yield samples.read, rows

    clock = Clock()
    for batch in encode_batches(encoder, batches(), threads=machine.decoders, clock=clock):
        if running[0].add(batch):
            running.popleft()
        yield Step(len(batch.rows) + len(batch.bad), clock.data, clock.model)
        clock.data = clock.model = 0.0


def loaded(settings: Settings, worker: int) -> Encoder:
    """The encoder of a worker process; ReactvlError when the model of that name is no longer the same."""
    machine = settings.machine
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // len(machine.places)))
    model = settings.model.load()
    if model.id.sha256 != settings.sha256:
        raise ReactvlError(
            f"{settings.model.name}: a worker process loads other weights under this name than were given; "
            "save the model to a folder and give that folder, or use --executor local"
        )
    return Encoder(model, device=machine.places[worker], precision=machine.precision)


def opened_samples(job: Job, opened: dict[Images, Samples]) -> Samples:
    """The job's samples, found once a process; ReactvlError when they are not those that the job is of."""
    if job.images not in opened:
        opened[job.images] = job.images.open()
    samples = opened[job.images]
    if samples.fingerprint != job.fingerprint:
        raise ReactvlError(f"{job.images.name}: the images have changed since the evaluation began; run it again")
    return samples


class Making:
    """A part on its way, from its batches to its files."""

    def __init__(self, part: Part, names: Sequence[str], dim: int):
        self.part, self.names = part, names
        self.rows: list[int] = []
        self.vectors = [np.zeros((0, dim), np.float32)]
        self.bad: dict[int, str] = {}

    def add(self, batch: Batch) -> bool:
        """Take the next batch; True when the part is whole, and written."""
        self.rows += batch.rows
        self.vectors.append(batch.vectors)
        self.bad |= dict(batch.bad)
        if len(self.rows) + len(self.bad) < self.part.stop - self.part.first:
            return False
        found = Features(np.array(self.rows, np.int64), np.concatenate(self.vectors), self.bad)
        write_part(self.part, self.names, found)
        return True
