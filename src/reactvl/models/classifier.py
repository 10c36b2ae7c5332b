"""A zero-shot classifier: class names and prompt templates become the weights of a linear head.

ELEVATER's rule: per class, encode every template, L2-normalise, average, normalise again; logits are 100 x cosine.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from reactvl.manifest import ReactvlError
from reactvl.models.encoder import Encoder

if TYPE_CHECKING:
    from reactvl.models.model import Model

LOGIT_SCALE = 100.0


class Classifier:
    """Scores images against classes; `weights` is (classes, dim) float32, rows L2-normalised."""

    def __init__(self, model: "Model", classes: Sequence[str], templates: Sequence[str]):
        if not classes or not templates:
            raise ReactvlError(
                f"a classifier needs class names and templates ({len(classes)} and {len(templates)} given)"
            )
        self.model, self.classes = model, list(classes)
        self.weights = head(Encoder(model), self.classes, templates)

    def probabilities(self, images) -> np.ndarray:
        """Softmax over classes (N, classes) float32, of anything that `Model.encode_image` takes."""
        logits = LOGIT_SCALE * self.model.encode_image(images).numpy() @ self.weights.T
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)

    def predict(self, images) -> list[str]:
        """The name of the likeliest class of every image."""
        return [self.classes[index] for index in self.probabilities(images).argmax(axis=1)]


def head(encoder: Encoder, classes: Sequence[str], templates: Sequence[str]) -> np.ndarray:
    """The zero-shot head (classes, dim) float32; `{}` in a template stands for the class."""
    prompts = [template.replace("{}", name) for name in classes for template in templates]
    vectors = encoder.texts(prompts).reshape(len(classes), len(templates), -1)  # (C, T, dim), rows normalised
    mean = vectors.mean(axis=1)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)
