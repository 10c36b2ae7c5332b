"""Zero-shot heads over image features: logits, probabilities, ranked classes.

The head itself is made by `reactvl.models.classifier.head`, by ELEVATER's rule: per class encode every template,
L2-normalise, average, normalise again; logits are 100 x cosine, whatever the model's own logit scale, which changes
probabilities only.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from reactvl.models.classifier import LOGIT_SCALE, head
from reactvl.models.encoder import Encoder

ROWS = 8192  # images scored at once


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Of N images, the K likeliest classes, best first: `classes` int32 (N, K) and `probabilities` float32 (N, K)."""

    classes: np.ndarray
    probabilities: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """The likeliest class of each image, int64 (N,)."""
        return self.classes[:, 0].astype(np.int64)


def zero_shot_head(encoder: Encoder, classes: Sequence[str], templates: Sequence[str]) -> np.ndarray:
    """The head (classes, dim) float32, rows L2-normalised, of class names in templates with `{}`."""
    return head(encoder, classes, templates)


def rank(features: np.ndarray, weights: np.ndarray, k: int = 5) -> Ranking:
    """The `k` likeliest classes (all, where there are fewer) of L2-normalised features (N, dim) under a head (C, dim).

    Probabilities are a softmax over all classes. Of classes with equal logits the first comes first.
    """
    k = min(k, len(weights))
    classes = np.empty((len(features), k), np.int32)
    chosen = np.empty((len(features), k), np.float32)
    for start in range(0, len(features), ROWS):
        here = slice(start, start + ROWS)
        left = logits(features[here], weights)  # (rows, C)
        odds = softmax(left)
        rows = np.arange(len(left))
        for place in range(k):
            # argmax takes the first of equals; by logits, because small probabilities underflow to ties
            best = left.argmax(axis=1)
            classes[here, place], chosen[here, place] = best, odds[rows, best]
            left[rows, best] = -np.inf
    return Ranking(classes, chosen)


def logits(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """100 x cosine, float32 (N, C)."""
    return LOGIT_SCALE * (features.astype(np.float32) @ weights.astype(np.float32).T)


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities of each row (N, C)."""
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)
