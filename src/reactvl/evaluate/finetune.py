"""Fine-tuning of the image tower with a language-initialised head, by the training engine, on a task's few shots or all.

Draws and validation parts are those of the linear probes. Learning rate and weight decay come from a short search on the
validation part, then all images drawn are trained on: AdamW, a warm-up and a half cosine, pictures resized and cropped as in
evaluation (ELEVATER's toolkit trains without augmentation as well, by SGD and with the search of the linear probes, 90
trainings of the whole tower). The last step is scored. A run that was stopped goes on from its last checkpoint.
"""

import contextlib
import copy
import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from reactvl.evaluate.probes import Probed
from reactvl.heads import few_shot
from reactvl.heads.features import encode_images
from reactvl.heads.metrics import METRICS
from reactvl.heads.probe import Probe, batches
from reactvl.manifest import ReactvlError, replacing, sha256_json, write_json
from reactvl.models.classifier import LOGIT_SCALE
from reactvl.models.encoder import Encoder, choose_device, choose_precision
from reactvl.models.model import Model
from reactvl.pool.images import BadImage, to_pixels
from reactvl.tasks import Task
from reactvl.train import loop
from reactvl.train.classification import ClassificationStepper, without_head
from reactvl.train.schedule import Schedule
from reactvl.train.step import Batch
from reactvl.train.tracking import tracker

RATES, DECAYS = (
    (3e-6, 1e-5, 3e-5, 1e-4),
    (0.1, 0.01, 1.0),
)  # all rates at the first decay, then the best rate at the others
EPOCHS, STEPS = 10, 500  # of a trial, whichever ends first
FINAL_EPOCHS, FINAL_STEPS = 50, 5_000
BATCH = 64
SAVED = 500  # steps between checkpoints


@dataclasses.dataclass(frozen=True)
class Images:
    """Readable images: `read(row)` gives the bytes of the image `rows[i]` (`Samples.read`)."""

    read: Callable[[int], bytes]
    rows: np.ndarray

    def some(self, places: np.ndarray) -> "Images":
        return Images(self.read, self.rows[places])

    def __len__(self) -> int:
        return len(self.rows)


def finetune_task(
    model: Model,
    train: Images,
    labels: np.ndarray,
    task: Task,
    test: Images,
    head: np.ndarray,
    *,
    shots: Sequence[str | int],
    seeds: Sequence[int],
    work: Path,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    done: Callable[[str, int], None] | None = None,
) -> dict[str, Probed]:
    """As `probes.probe_task`, of tuned towers: from images instead of features; `model` stays as it is.

    `labels`, int64 (M,) or bool (M, C), are those of `train.rows`. What is done is kept in `work`, by all that it depends on.
    Raises ReactvlError for an image that cannot be read any more.
    """
    where = choose_device(device)
    tuner = Tuner(model, task, head, where, choose_precision(precision, where), threads)
    found = {}
    for name in dict.fromkeys(map(str, shots)):
        scores = np.empty((len(seeds), len(test), len(task.classes)), np.float32)
        chosen = []
        for place, seed in enumerate(seeds):
            taken = few_shot.rows(labels, name, seed, len(task.classes))
            scores[place], setting = tuner.kept(work, train.some(taken), labels[taken], test, seed)
            chosen.append(setting)
            if done:
                done(name, seed)
        found[name] = Probed(name, tuple(seeds), scores, chosen, tuner.trained)
    return found


class Tuner:
    """One model and task; each training begins at the same weights."""

    def __init__(
        self, model: Model, task: Task, head: np.ndarray, device: torch.device, precision: str, threads: int | None
    ):
        self.model, self.task, self.head = model, task, head
        self.device, self.precision, self.threads = device, precision, threads
        self.trained = sum(one.numel() for one in model.net.visual.parameters()) + head.size + len(head)

    def kept(
        self, work: Path, train: Images, labels: np.ndarray, test: Images, seed: int
    ) -> tuple[np.ndarray, dict[str, float]]:
        """Scores (N, C) and the setting, from `work` where they are there."""
        arrays = (self.head, train.rows, labels, test.rows)
        hashes = [hashlib.sha256(np.ascontiguousarray(one).tobytes()).hexdigest() for one in arrays]
        key = [self.model.id.sha256, self.precision, self.task.metric, hashes, seed]
        folder = work / f"{self.task.name}-{sha256_json(key)[:16]}"
        result, choice = folder / "scores.npy", folder / "chosen.json"
        folder.mkdir(parents=True, exist_ok=True)
        if not choice.is_file():
            write_json(choice, self.chosen(train, labels, seed))
        setting = json.loads(choice.read_text())
        if not result.is_file():
            made, net = self.final(folder, train, labels, setting, seed)
            scores = made.scores(self.vectors(net, test))
            with replacing(result) as part, open(part, "wb") as file:
                np.save(file, scores)
            shutil.rmtree(folder / loop.CHECKPOINTS, ignore_errors=True)
        told = {name: math.nan if value is None else value for name, value in setting.items()}
        return np.load(result, allow_pickle=False), told

    def chosen(self, train: Images, labels: np.ndarray, seed: int) -> dict[str, float | None]:
        """The setting that scores best on the validation part, of equals the first tried; its score is None where nothing
        can be scored."""
        learn, judge = few_shot.split(labels)
        best: dict[str, float | None] = {
            "lr": RATES[0], "l2": DECAYS[0], "validation": None, "images": len(labels)
        }  # fmt: skip
        if not len(judge):
            return best

        def tried(lr: float, l2: float) -> None:
            stepper = self.stepper(lr, l2, seed)
            steps = step_count(len(learn), EPOCHS, STEPS)
            schedule = Schedule(steps, max(steps // 10, 1))
            with contextlib.closing(self.feed(train.some(learn), labels[learn], seed, 0, steps)) as source:
                for batch in source:
                    stepper.step(batch, schedule.factor(stepper.steps))
            made = Probe(*scaled(without_head(stepper.net)), several=labels.ndim == 2)
            try:
                value = float(
                    METRICS[self.task.metric](labels[judge], made.scores(self.vectors(stepper.net, train.some(judge))))
                )
            except ValueError:  # one of two classes is not in the part
                return
            if np.isfinite(value) and (best["validation"] is None or value > best["validation"]):
                best.update(lr=lr, l2=l2, validation=value)

        for lr in RATES:
            tried(lr, DECAYS[0])
        for l2 in DECAYS[1:]:
            tried(best["lr"], l2)
        return best

    def final(
        self, folder: Path, train: Images, labels: np.ndarray, setting: dict, seed: int
    ) -> tuple[Probe, torch.nn.Module]:
        """The head and the network tuned on all that was drawn, through the training loop and its checkpoints."""
        stepper = self.stepper(setting["lr"], setting["l2"], seed)
        steps = step_count(len(labels), FINAL_EPOCHS, FINAL_STEPS)
        loop.train(
            stepper,
            lambda start: self.feed(train, labels, seed, start, steps),
            Schedule(steps, max(steps // 10, 1)),
            loop.Plan(save_at=lambda number: number % SAVED == 0),
            folder=folder,
            tracking=lambda start: tracker(folder, [], out=folder, name=self.task.name, settings={}, start=start),
            what=f"fine-tuning, {self.task.name}",
        )
        return Probe(*scaled(without_head(stepper.net)), several=labels.ndim == 2), stepper.net

    def stepper(self, lr: float, l2: float, seed: int) -> ClassificationStepper:
        net = copy.deepcopy(self.model.net)
        return ClassificationStepper.of(
            net, self.head, lr=lr, l2=l2, precision=self.precision, device=self.device, seed=seed
        )

    def feed(self, images: Images, labels: np.ndarray, seed: int, start: int, steps: int) -> Iterator[Batch]:
        """Batches from step `start` on, in the order of the linear probes; the pictures of the next are read meanwhile."""
        targets = torch.from_numpy(labels if labels.ndim == 1 else labels.astype(np.float32))
        per_epoch = math.ceil(len(labels) / BATCH)
        order = [
            rows.numpy() for rows in batches(len(labels), math.ceil(steps / per_epoch), seed, BATCH)
        ][:steps]  # fmt: skip
        with ThreadPoolExecutor(self.threads or 2, "decode") as pool:
            ahead = [pool.submit(self.pixels, images, place) for place in order[start]] if start < steps else []
            for step in range(start, steps):
                ready, ahead = ahead, []
                if step + 1 < steps:
                    ahead = [pool.submit(self.pixels, images, place) for place in order[step + 1]]
                pixels = torch.from_numpy(np.stack([one.result() for one in ready]))
                yield Batch(self.model.normalise(pixels), targets[order[step]], None, step / per_epoch)

    def pixels(self, images: Images, place: int) -> np.ndarray:
        try:
            return to_pixels(
                images.read(int(images.rows[place])), self.model.image_size,
                resize_mode=self.model.resize_mode, interpolation=self.model.interpolation,
            )  # fmt: skip
        except BadImage as fault:
            raise ReactvlError(
                f"task {self.task.name}: image {images.rows[place]} was readable before: {fault}"
            ) from None

    def vectors(self, net: torch.nn.Module, images: Images) -> np.ndarray:
        """L2-normalised features (N, dim) of the tuned tower."""
        encoder = Encoder(
            Model(self.model.name, net, self.model.config), device=str(self.device), precision=self.precision
        )
        found = []
        for batch in encode_images(
            encoder, lambda place: images.read(int(images.rows[place])), range(len(images)), threads=self.threads
        ):
            if batch.bad:
                place, reason = batch.bad[0]
                raise ReactvlError(f"task {self.task.name}: image {images.rows[place]} was readable before: {reason}")
            found.append(batch.vectors)
        return np.concatenate(found)


def step_count(images: int, epochs: int, most: int) -> int:
    return min(epochs * math.ceil(images / BATCH), most)


def scaled(head: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The head over plain cosines: the logit scale goes into its weights."""
    return np.float32(LOGIT_SCALE) * head[0], head[1]
