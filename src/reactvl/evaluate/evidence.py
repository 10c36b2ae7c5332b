"""What scores are made of: features of all images by all models, heads, captions' vectors, retrieved pairs.

Models are loaded one at a time. After this nothing but fine-tuning needs a tower.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from reactvl.evaluate import baselines
from reactvl.evaluate.baselines import Retrieved
from reactvl.evaluate.candidates import Candidate
from reactvl.evaluate.captions import caption_texts
from reactvl.evaluate.encoding import Job, encode_missing
from reactvl.evaluate.features import Features, folder_of, missing, read, write_skipped_list
from reactvl.evaluate.request import Request
from reactvl.evaluate.sources import Images, PairImages, TaskImages
from reactvl.evaluate.watch import Watch
from reactvl.heads.text_cache import TextCache
from reactvl.heads.zero_shot import zero_shot_head
from reactvl.models.encoder import Encoder
from reactvl.progress import progress
from reactvl.tasks import Samples, Task

if TYPE_CHECKING:
    from reactvl.evaluate.run import Plan


@dataclasses.dataclass
class Evidence:
    """`heads` float32 (C, dim) by (label of the model, task, "first" or "all" names), `texts` (T, dim) of captions by
    (label, task). `baseline_facts` say what the baselines were made from."""

    request: Request
    opened: dict[Images, Samples]
    heads: dict[tuple[str, str, str], np.ndarray] = dataclasses.field(default_factory=dict)
    texts: dict[tuple[str, str], np.ndarray] = dataclasses.field(default_factory=dict)
    retrieved: Retrieved | None = None
    baseline_facts: dict[str, Any] | None = None

    def features(self, candidate: Candidate, images: Images) -> Features:
        """The features of images by a model, from their files, checked complete."""
        samples = self.opened[images]
        return read(self.folder(candidate, images), samples, candidate.id.dim)

    def folder(self, candidate: Candidate, images: Images):
        samples, precision = self.opened[images], self.request.machine.precision
        return folder_of(self.request.features, images.name, samples, candidate.id, candidate.image_size, precision)


def gathered(request: Request, plan: "Plan", watch: Watch) -> Evidence:
    """Encode what is not kept from an earlier evaluation; a run that was stopped goes on behind the last part."""
    evidence = Evidence(request, dict(plan.opened))
    for number, candidate in enumerate(plan.compared):
        wanted: list[Images] = [images for images in plan.opened if needed(images, request, candidate)]
        if number == 0 and plan.pairs is not None and not baselines.embedded(plan.pairs, candidate.id):
            images = PairImages(plan.pairs.folder)
            evidence.opened[images] = images.open()
            wanted.append(images)
        encoder = Loading(candidate, request, watch)
        encode_images(request, candidate, wanted, evidence, encoder, watch)
        began = time.monotonic()
        encode_texts(request, plan, candidate, encoder, evidence, with_synonyms=number == 0)
        watch.seconds["text tower"] += time.monotonic() - began
    if plan.pairs is not None:
        take_pairs(plan, evidence)
    return evidence


def needed(images: TaskImages, request: Request, candidate: Candidate) -> bool:
    """A train split is for probes, and those are of models that were named, not of the sweep between them."""
    return images.split == request.split or candidate.share is None


class Loading:
    """A model's encoder, made when it is first asked for."""

    def __init__(self, candidate: Candidate, request: Request, watch: Watch):
        self.candidate, self.machine, self.watch = candidate, request.machine, watch
        self.made: Encoder | None = None

    def __call__(self) -> Encoder:
        if self.made is None:
            began = time.monotonic()
            model, machine = self.candidate.load(), self.machine
            self.made = Encoder(model, device=machine.places[0], precision=machine.precision)
            self.watch.seconds["loading models"] += time.monotonic() - began
        return self.made


def encode_images(
    request: Request,
    candidate: Candidate,
    wanted: list[Images],
    evidence: Evidence,
    encoder: Callable[[], Encoder],
    watch: Watch,
) -> None:
    """The features that are missing, of all images in one stream."""
    jobs, total = [], 0
    for images in wanted:
        samples, folder = evidence.opened[images], evidence.folder(candidate, images)
        total += len(samples)
        jobs += [Job(images, samples.fingerprint, part) for part in missing(folder, samples, candidate.id.dim)]
    if not jobs:
        return
    with progress(f"encoding images, {candidate.label}", total, "images") as bar:
        bar.advance(total - sum(job.part.stop - job.part.first for job in jobs), resumed=True)

        def advance(count: int) -> None:
            watch.encoded += count
            bar.advance(count, f"waiting for data {watch.clock.waiting:.0%}")

        encode_missing(candidate, jobs, request.machine, encoder, evidence.opened, watch.clock, advance)
    for images in dict.fromkeys(job.images for job in jobs):
        samples = evidence.opened[images]
        write_skipped_list(evidence.folder(candidate, images), samples, evidence.features(candidate, images).bad)


def encode_texts(
    request: Request,
    plan: "Plan",
    candidate: Candidate,
    encoder: Callable[[], Encoder],
    evidence: Evidence,
    *,
    with_synonyms: bool,
) -> None:
    """The heads of all tasks and the vectors of all captions, from the cache beside the features where they are there.
    Models of one text tower share them."""
    twin = next((one for one in plan.compared if one.text_sha256 == candidate.text_sha256), candidate)
    jobs = [(task, "first") for task in plan.tasks]
    if with_synonyms and any(column.method == "synonyms" for column in plan.columns):
        jobs += [(task, "all") for task in plan.tasks if has_synonyms(task)]
    prompts = sum(prompt_count(task, names) for task, names in jobs)
    texts = {
        task.name: caption_texts(plan.opened[TaskImages(request.finding, task.name, request.split)])[0]
        for task in plan.caption_tasks
    }
    total = prompts + sum(map(len, texts.values()))
    with progress(f"encoding texts, {candidate.label}", total, "texts") if twin is candidate else silent() as bar:
        for task, names in jobs:
            key = candidate.label, task.name, names
            known = evidence.heads.get((twin.label, task.name, names))
            if known is None:
                known = zero_shot_head(
                    encoder(), task.synonyms, task.templates, rule=request.rule, synonyms=names,
                    cache=request.features, advance=bar.advance,
                )  # fmt: skip
            evidence.heads[key] = known
        for name, captions in texts.items():
            known = evidence.texts.get((twin.label, name))
            if known is None:
                known = TextCache(encoder(), request.features, bar.advance).texts(captions)
            evidence.texts[candidate.label, name] = known


@contextlib.contextmanager
def silent():
    yield None


def has_synonyms(task: Task) -> bool:
    return any(len(names) > 1 for names in task.synonyms)


def prompt_count(task: Task, names: str) -> int:
    each = len(task.classes) if names == "first" else sum(map(len, task.synonyms))
    return each * len(task.templates)


def take_pairs(plan: "Plan", evidence: Evidence) -> None:
    """The pairs' features: the pool's own where the base made them, else those encoded above."""
    base, images = plan.compared[0], PairImages(plan.pairs.folder)
    if images in evidence.opened:
        evidence.retrieved = baselines.from_features(plan.pairs, evidence.features(base, images))
    else:
        evidence.retrieved = baselines.from_embeddings(plan.pairs)
    evidence.baseline_facts = {
        "model": base.label,
        "pairs": len(plan.pairs),
        "usable_pairs": int(evidence.retrieved.usable.sum()),
        "mix": baselines.MIX,
    }
