"""The zero-shot head: class names in prompt templates, through the text tower, become the weights of a linear classifier.

Two rules of one formula (normalise every prompt's vector, mean over a class's prompts, normalise again):

- `elevater`: as ELEVATER's toolkit; here through the encoder (packed weights, padding trimmed, every distinct prompt
  once), with sums in float64.
- `open_clip`: the function that open_clip's own evaluation calls, `build_zero_shot_classifier`, on the model's own
  network: whole contexts, 10 classes at a time.

Both are made in float32 whatever the encoder's precision, and then differ by rounding alone: a head is made once and judges
every image, and bf16's noise in it moved up to two of 230 of the demo's images. Logits are 100 x cosine, whatever the
model's own logit scale.
"""

import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch

from reactvl.clip_imports import open_clip
from reactvl.manifest import ReactvlError
from reactvl.models.encoder import Encoder, autocast
from reactvl.models.templates import prompt

Rule = Literal["elevater", "open_clip"]
Synonyms = Literal["first", "all"]
Encode = Callable[[list[str]], np.ndarray]

LOGIT_SCALE = 100.0
PROMPTS = 2048  # encoded at once: a few megabytes of vectors and tokens, some seconds between signs of progress
OPEN_CLIP_CLASSES = 10  # open_clip's default, classes a batch
OPEN_CLIP_PROMPTS = 1000  # of such a batch, so that 1,000 templates do not make one of 10,000 sentences


def head(
    encoder: Encoder,
    classes: Sequence[str | Sequence[str]],
    templates: Sequence[str],
    *,
    rule: Rule = "elevater",
    synonyms: Synonyms = "first",
    encode: Encode | None = None,
) -> np.ndarray:
    """The zero-shot head float32 (classes, dim), rows L2-normalised; `{}` in a template stands for the class.

    A class is a name or a list of names: `synonyms` takes the first (ELEVATER's rule), or all, whose prompts count
    alike. Memory is that of the head and of a batch of prompts. `encode` stands in for `encoder.exact.texts` under the
    rule `elevater`. ReactvlError for an empty list, a class without a name, an unknown rule.
    """
    named = class_names(classes, synonyms)
    if not named or not templates:
        raise ReactvlError(f"a classifier needs class names and templates ({len(named)} and {len(templates)} given)")
    if rule == "open_clip":
        return open_clip_head(encoder.exact, named, templates)
    if rule != "elevater":
        raise ReactvlError(f"head {rule!r}: use elevater or open_clip")
    return elevater_head(encode or encoder.exact.texts, named, templates)


def class_names(classes: Sequence[str | Sequence[str]], synonyms: Synonyms = "first") -> list[tuple[str, ...]]:
    """The names of every class that prompts are made of; ReactvlError for a class without one."""
    if isinstance(classes, str):
        raise ReactvlError(f"classes {classes!r}: give a list of names, as in [{classes!r}]")
    if synonyms not in ("first", "all"):
        raise ReactvlError(f"synonyms {synonyms!r}: use first or all")
    found = []
    for number, one in enumerate(classes):
        names = (one,) if isinstance(one, str) else tuple(one)
        if not names or not all(isinstance(name, str) and name.strip() for name in names):
            raise ReactvlError(f"classes[{number}]: has no name")
        found.append(names if synonyms == "all" else names[:1])
    return found


def elevater_head(encode: Encode, named: list[tuple[str, ...]], templates: Sequence[str]) -> np.ndarray:
    sums = None
    stream = prompts_of(named, templates)
    while batch := list(itertools.islice(stream, PROMPTS)):
        owners = np.array([owner for owner, _ in batch])  # ascending
        vectors = encode([text for _, text in batch]).astype(np.float64)  # (P, dim)
        if sums is None:
            sums = np.zeros((len(named), vectors.shape[1]))
        present, starts = np.unique(owners, return_index=True)
        sums[present] += np.add.reduceat(vectors, starts, axis=0)
    # the mean's direction is the sum's
    return (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)


def prompts_of(named: list[tuple[str, ...]], templates: Sequence[str]) -> Iterator[tuple[int, str]]:
    """(class, sentence) of every name of every class in every template, class by class."""
    for owner, names in enumerate(named):
        for name in names:
            for template in templates:
                yield owner, prompt(template, name)


def open_clip_head(encoder: Encoder, named: list[tuple[str, ...]], templates: Sequence[str]) -> np.ndarray:
    """By open_clip's function itself; it takes any "class" that its "templates" make sentences of: here a class is the
    list of its prompts and template i takes the i-th. Classes of equally many prompts go together."""
    weights = np.empty((len(named), encoder.model.id.dim), np.float32)
    for count in sorted({len(names) for names in named}):
        members = [number for number, names in enumerate(named) if len(names) == count]
        prompts = count * len(templates)
        with torch.inference_mode(), autocast(encoder.device, encoder.precision):
            made = open_clip.build_zero_shot_classifier(
                encoder.net,
                encoder.model.tokenize,
                Sentences([named[number] for number in members], templates),
                [operator.itemgetter(place) for place in range(prompts)],
                num_classes_per_batch=min(OPEN_CLIP_CLASSES, max(OPEN_CLIP_PROMPTS // prompts, 1)),
                device=encoder.device,
            )  # (dim, members)
        weights[members] = made.T.float().cpu().numpy()
    return weights


class Sentences(Sequence):
    """Of each class the list of its prompts, made when it is asked for."""

    def __init__(self, named: list[tuple[str, ...]], templates: Sequence[str]):
        self.named, self.templates = named, templates

    def __len__(self) -> int:
        return len(self.named)

    def __getitem__(self, number: int) -> list[str]:
        return [text for _, text in prompts_of([self.named[number]], self.templates)]


def logits(features: np.ndarray, weights: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """100 x cosine (+ bias), float32 (N, C), of L2-normalised features (N, dim) under a head (C, dim)."""
    made = LOGIT_SCALE * (features.astype(np.float32, copy=False) @ weights.astype(np.float32, copy=False).T)
    return made if bias is None else made + bias.astype(np.float32, copy=False)


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities of each row (N, C)."""
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)
