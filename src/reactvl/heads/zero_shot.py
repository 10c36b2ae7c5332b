"""Zero-shot heads over image features: heads kept on disk, logits, probabilities, ranked classes.

The head itself is made by `reactvl.models.text_head`, by ELEVATER's rule or by open_clip's own function; logits are 100 x
cosine, whatever the model's own logit scale, which changes probabilities only.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from reactvl.heads.text_cache import TextCache
from reactvl.models.encoder import Encoder
from reactvl.models.text_head import LOGIT_SCALE, Rule, Synonyms, class_names, head, logits, softmax

__all__ = ["LOGIT_SCALE", "Ranking", "Rule", "Synonyms", "logits", "rank", "rank_scores", "softmax", "zero_shot_head"]

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


def zero_shot_head(
    encoder: Encoder,
    classes: Sequence[str | Sequence[str]],
    templates: Sequence[str],
    *,
    rule: Rule = "elevater",
    synonyms: Synonyms = "first",
    cache: Path | None = None,
    advance: Callable[[int], None] | None = None,
) -> np.ndarray:
    """The head float32 (classes, dim), rows L2-normalised, of class names in templates with `{}`; in float32 arithmetic.

    A class is a name or all its names, of which `synonyms` takes the first or all, alike. `rule`: see `text_head`.
    `cache`: a folder where heads are kept by text tower, prompts and rule, so that a second run encodes nothing, and a
    stopped one goes on. `advance` is told the number of prompts whenever some are done, kept ones included.
    ReactvlError for an empty list, a class without a name, an unknown rule.
    """
    named = class_names(classes, synonyms)  # of the names that are not used a head does not depend
    kept = TextCache(encoder.exact, cache, advance)
    return kept.head(
        [rule, named, list(templates)],
        sum(map(len, named)) * len(templates),
        lambda: head(encoder, named, templates, rule=rule, synonyms="all", encode=kept.texts),
    )


def rank(features: np.ndarray, weights: np.ndarray, k: int = 5, bias: np.ndarray | None = None) -> Ranking:
    """The `k` likeliest classes (all, where there are fewer) of L2-normalised features (N, dim) under a head (C, dim).

    Probabilities are a softmax over all classes. Of classes with equal logits the first comes first.
    """
    return ranked(len(features), len(weights), k, lambda rows: with_odds(logits(features[rows], weights, bias)))


def rank_scores(scores: np.ndarray, k: int = 5) -> Ranking:
    """The `k` classes of the highest scores (N, C), whose own values stand for probabilities; of equals the first."""
    return ranked(*scores.shape, k, lambda rows: (np.array(scores[rows], np.float32), scores[rows]))


def with_odds(left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return left, softmax(left)


def ranked(images: int, count: int, k: int, block: Callable[[slice], tuple[np.ndarray, np.ndarray]]) -> Ranking:
    """`block(rows)` gives what to rank by, which is used up, and the probabilities, (rows, C) each."""
    k = min(k, count)
    classes = np.empty((images, k), np.int32)
    chosen = np.empty((images, k), np.float32)
    for start in range(0, images, ROWS):
        here = slice(start, min(start + ROWS, images))
        left, odds = block(here)
        rows = np.arange(len(left))
        for place in range(k):
            # argmax takes the first of equals; by logits, because small probabilities underflow to ties
            best = left.argmax(axis=1)
            classes[here, place], chosen[here, place] = best, odds[rows, best]
            left[rows, best] = -np.inf
    return Ranking(classes, chosen)
