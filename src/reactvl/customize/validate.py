"""How good a model is on what it was not trained on: contrastive loss on held-out pairs, zero-shot accuracy on held-out images.

Images are encoded as in evaluation, without augmentation; several processes encode a part each.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch

from reactvl.customize.request import Request
from reactvl.heads.features import encode_images
from reactvl.heads.metrics import METRICS, top_k_accuracy
from reactvl.heads.zero_shot import logits, rank, softmax, zero_shot_head
from reactvl.manifest import ReactvlError
from reactvl.models.encoder import Encoder
from reactvl.models.model import Model
from reactvl.pool.images import BadImage
from reactvl.pool.reader import read_image
from reactvl.tasks import Samples, Task
from reactvl.tasks.imagenet import validation_task
from reactvl.train.distributed import World
from reactvl.train.loss import clip_loss, siglip_loss
from reactvl.train.pairs import TrainingPairs

Figures = dict[str, float]


@dataclasses.dataclass
class Judge:
    """Judges models of one run. `text_locked`: their text towers are all the same, and what they say is kept."""

    pairs: TrainingPairs | None
    task: Task | None
    samples: Samples | None
    batch_size: int
    workers: int | None
    device: torch.device
    precision: str
    world: World
    text_locked: bool
    kept: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __call__(self, model: Model, *, loss: bool = True, zero_shot: bool = True) -> tuple[Figures, float | None]:
        """The figures of a model, and the one to choose by, the greater the better: zero-shot accuracy where there are
        labelled images, else the negative loss; None where that one was not asked for."""
        model.net.eval()
        encoder = Encoder(model, device=str(self.device), precision="bf16" if self.precision == "bf16" else "fp32")
        figures: Figures = {}
        if self.pairs is not None and loss:
            figures |= self.contrastive(encoder)
        if self.task is not None and zero_shot:
            figures |= self.zero_shot(encoder)
        value = (
            figures.get("zeroshot_top1")
            if self.task is not None
            else -figures["val_loss"]
            if "val_loss" in figures
            else None
        )
        return figures, value

    def contrastive(self, encoder: Encoder) -> Figures:
        """Loss in batches of `batch_size` pairs, weighted by their size, and the share of images whose own text is nearest."""
        pairs = self.pairs
        images, rows = self.encoded(encoder, lambda row: read_pair(pairs, row), len(pairs))
        known = pairs.vectors if self.text_locked else None
        texts = self.once("texts", lambda: encoder.texts(pairs.captions) if known is None else known.read())[rows]
        if len(rows) < 2:
            raise ReactvlError(f"validation: {len(rows)} of {len(pairs):,} held-out pictures can be read")
        net, losses, hits = encoder.net, 0.0, 0.0
        scale, bias = net.logit_scale.detach().exp().cpu(), getattr(net, "logit_bias", None)
        count = max(len(rows) // self.batch_size, 1)
        for chunk in np.array_split(np.arange(len(rows)), count):
            vectors = torch.from_numpy(images[chunk]), torch.from_numpy(np.asarray(texts[chunk], np.float32))
            with torch.no_grad():
                made = clip_loss(*vectors, scale) if bias is None else siglip_loss(*vectors, scale, bias.detach().cpu())
            losses, hits = losses + float(made[0]) * len(chunk), hits + float(made[1]) * len(chunk)
        return {"val_loss": losses / len(rows), "val_accuracy": hits / len(rows)}

    def zero_shot(self, encoder: Encoder) -> Figures:
        """The task's own metric, and the share of images with their class among the first five."""
        task, samples = self.task, self.samples
        images, rows = self.encoded(encoder, samples.read, len(samples))
        if not len(rows):
            raise ReactvlError(f"imagenet_val {task.folder}: none of {len(samples):,} pictures can be read")
        head = self.once("head", lambda: zero_shot_head(encoder, task.classes, task.templates))
        ranking = rank(images, head)
        labels = samples.labels[rows]
        figures = {"zeroshot_top1": METRICS[task.metric](labels, softmax(logits(images, head)))}
        if labels.ndim == 1 and len(task.classes) > 5:
            figures["zeroshot_top5"] = top_k_accuracy(labels, ranking.classes, 5)
        return figures

    def encoded(self, encoder: Encoder, read: Callable[[int], bytes], count: int) -> tuple[np.ndarray, np.ndarray]:
        """Image vectors float32 and their rows int64, those that cannot be read left out."""
        part = self.world.part(count)
        rows, vectors = [], [np.zeros((0, encoder.model.id.dim), np.float32)]
        for batch in encode_images(encoder, read, range(part.start, part.stop), threads=self.workers):
            rows += batch.rows
            vectors.append(batch.vectors)
        mine = torch.from_numpy(np.concatenate(vectors)), torch.tensor(rows, dtype=torch.int64)
        images, places = (self.world.joined(one).numpy() for one in mine)
        return images, places

    def once(self, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """What a locked text tower says, made once; of a trained one, made each time."""
        if not self.text_locked:
            return make()
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]


def read_pair(pairs: TrainingPairs, row: int) -> bytes:
    try:
        return read_image(*pairs.place(row))
    except OSError as fault:
        raise BadImage("unreadable image", str(fault)) from None


def judge_of(
    request: Request,
    pairs: TrainingPairs | None,
    *,
    device: torch.device,
    precision: str,
    world: World,
    text_locked: bool,
) -> Judge | None:
    """The judge of a request; None where it gives nothing to judge by."""
    if pairs is None and request.imagenet_val is None:
        return None
    task, samples = validation_task(request.imagenet_val) if request.imagenet_val is not None else (None, None)
    return Judge(pairs, task, samples, request.batch_size, request.workers, device, precision, world, text_locked)


def shown(figures: Figures) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in figures.items())


@dataclasses.dataclass(frozen=True)
class Often:
    """When a run of `steps` steps of `batch` samples, `per_epoch` an epoch, does a thing every so many epochs: after a step
    with which such a number of epochs is complete."""

    batch: int
    per_epoch: float
    steps: int

    def due(self, done: int, epochs: float | None) -> bool:
        if not epochs:
            return False
        each = self.per_epoch * epochs
        # a little above, so that epochs of 0.1 do not miss their own end by rounding
        return int(done * self.batch / each + 1e-9) > int((done - 1) * self.batch / each + 1e-9)

    def validation_due(self, done: int, epochs: float) -> bool:
        """As `due`, and at the end."""
        return bool(epochs) and (done == self.steps or self.due(done, epochs))
