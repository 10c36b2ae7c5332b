"""A zero-shot classifier: class names and prompt templates become the weights of a linear head.

ELEVATER's rule: per class, encode every template, L2-normalise, average, normalise again; logits are 100 x cosine.

    pandas = model.classifier(["red panda", ["raccoon", "coon"]], "openai")
    pandas.predict(["a.jpg", "b.jpg"])          # ["raccoon", "red panda"]
    pandas.top([image], k=2)                    # [[("red panda", 0.93), ("raccoon", 0.07)]]
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from torch import Tensor

from reactvl.manifest import ReactvlError
from reactvl.models.encoder import Encoder

if TYPE_CHECKING:
    from reactvl.models.model import Model

LOGIT_SCALE = 100.0
BATCH = 64  # images encoded at once


class Classifier:
    """Scores images against classes; `weights` is the head (classes, dim) float32, rows L2-normalised.

    `images` are PIL images or paths of image files, one or many, or what `Model.encode_image` takes. Classes of equal name stay
    two. `classes` are the names shown, `templates` the sentences.
    """

    def __init__(
        self,
        model: "Model",
        classes: Sequence[str | Sequence[str]],
        templates: str | Sequence[str],
        *,
        precision: str = "auto",
    ):
        self.model, self.classes, self.templates = model, shown(classes), sentences(templates)
        if not self.classes or not self.templates:
            raise ReactvlError(
                f"a classifier needs class names and templates ({len(self.classes)} and {len(self.templates)} given)"
            )
        self.weights = head(Encoder(model, precision=precision), self.classes, self.templates)

    def logits(self, images) -> np.ndarray:
        """100 x cosine (N, classes) float32."""
        vectors = [self.model.encode_image(batch).numpy() for batch in batches(images)]
        if not vectors:
            return np.empty((0, len(self.classes)), np.float32)
        return LOGIT_SCALE * np.concatenate(vectors) @ self.weights.T

    def probabilities(self, images) -> np.ndarray:
        """Softmax over classes (N, classes) float32."""
        logits = self.logits(images)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)

    def predict(self, images) -> list[str]:
        """The name of the likeliest class of every image."""
        return [self.classes[index] for index in self.logits(images).argmax(axis=1)]

    def top(self, images, k: int = 5) -> list[list[tuple[str, float]]]:
        """The `k` likeliest classes of every image (all, where there are fewer), best first, with their probabilities."""
        odds = self.probabilities(images)
        best = np.argsort(-odds, axis=1, kind="stable")[:, :k]
        return [
            [(self.classes[index], float(row[index])) for index in order] for row, order in zip(odds, best, strict=True)
        ]


def head(encoder: Encoder, classes: Sequence[str], templates: Sequence[str]) -> np.ndarray:
    """The zero-shot head (classes, dim) float32; `{}` in a template stands for the class."""
    prompts = [template.replace("{}", name) for name in classes for template in templates]
    vectors = encoder.texts(prompts).reshape(len(classes), len(templates), -1)  # (C, T, dim), rows normalised
    mean = vectors.mean(axis=1)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def shown(classes: Sequence[str | Sequence[str]]) -> list[str]:
    """The name of every class; of a list of synonyms the first, as ELEVATER does."""
    if isinstance(classes, str):
        raise ReactvlError(f"classes {classes!r}: give a list of names, as in [{classes!r}]")
    names = [one if isinstance(one, str) else next(iter(one), "") for one in classes]
    if empty := [number for number, name in enumerate(names) if not isinstance(name, str) or not name.strip()]:
        raise ReactvlError(f"classes[{empty[0]}]: has no name")
    return names


def sentences(templates: str | Sequence[str]) -> list[str]:
    """Templates by open_clip's names ("openai", the 80 of CLIP's ImageNet evaluation, or "simple", 7 of them), one, or many."""
    if isinstance(templates, str):
        from reactvl.clip_imports import open_clip

        named = {"openai": open_clip.OPENAI_IMAGENET_TEMPLATES, "simple": open_clip.SIMPLE_IMAGENET_TEMPLATES}
        templates = [template("{}") for template in named[templates]] if templates in named else [templates]
    for template in templates:
        if template.count("{}") != 1:
            raise ReactvlError(
                f"template '{template}' must hold {{}} exactly once, where the class name goes; named sets are openai and simple"
            )
    return list(templates)


def batches(images) -> Iterator["Tensor | list[Image.Image]"]:
    """The images, some at a time, so that memory does not grow with their number; files are opened when their turn comes."""
    if isinstance(images, str | Path | Image.Image):
        images = [images]
    if isinstance(images, Tensor):
        yield from images.split(BATCH)
        return
    for start in range(0, len(images), BATCH):
        yield [opened(image) for image in images[start : start + BATCH]]


def opened(image: "str | Path | Image.Image") -> "Image.Image":
    """A picture; ReactvlError for a file that is none."""
    if not isinstance(image, str | Path):
        return image
    try:
        with Image.open(image) as file:
            file.load()
            return file
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as fault:
        raise ReactvlError(f"{image}: not a picture that can be read ({fault})") from None
