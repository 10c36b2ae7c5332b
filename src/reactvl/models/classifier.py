"""A zero-shot classifier of pictures, for those who hold a model: `text_head` makes its weights, by ELEVATER's rule.

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
from reactvl.models.templates import NAMED, checked
from reactvl.models.text_head import LOGIT_SCALE, class_names, head, softmax

if TYPE_CHECKING:
    from reactvl.models.model import Model

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
        self.model, self.templates = model, sentences(templates)
        self.classes = [names[0] for names in class_names(classes)]
        self.weights = head(Encoder(model, precision=precision), self.classes, self.templates)

    def logits(self, images) -> np.ndarray:
        """100 x cosine (N, classes) float32."""
        vectors = [self.model.encode_image(batch).numpy() for batch in batches(images)]
        if not vectors:
            return np.empty((0, len(self.classes)), np.float32)
        return LOGIT_SCALE * np.concatenate(vectors) @ self.weights.T

    def probabilities(self, images) -> np.ndarray:
        """Softmax over classes (N, classes) float32."""
        return softmax(self.logits(images))

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


def sentences(templates: str | Sequence[str]) -> list[str]:
    """Templates by open_clip's names ("openai", the 80 of CLIP's ImageNet evaluation, or "simple", 7 of them), one, or many."""
    if isinstance(templates, str):
        templates = NAMED[templates]() if templates in NAMED else [templates]
    return [checked(template, f"templates[{number}]") for number, template in enumerate(templates)]


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
