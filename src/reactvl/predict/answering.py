"""What answers: a model with a zero-shot head, or an ONNX classifier that brings its own classes."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from reactvl.heads.features import Clock, encode_images
from reactvl.heads.zero_shot import Ranking, logits, ranked, with_odds, zero_shot_head
from reactvl.manifest import ReactvlError, sha256_json
from reactvl.models import load
from reactvl.models.encoder import Encoder, choose_device, choose_precision
from reactvl.models.onnx_session import OnnxClassifier, onnx_file
from reactvl.predict.parts import Answers, Parts
from reactvl.predict.pictures import Pictures
from reactvl.tasks.classes import read_classes
from reactvl.tasks.templates import read_templates

TOP = 5


@dataclasses.dataclass(frozen=True)
class Answering:
    """`encoder.images` of pixels, and `score` of what it gives, are logits (N, classes); `sha256` is of all that an
    answer depends on besides the picture."""

    encoder: Any
    classes: list[str]
    score: Callable[[np.ndarray], np.ndarray]
    sha256: str


def answering(
    model: Any,
    classes: str | Sequence[str] | None,
    templates: str | Sequence[str] | None,
    *,
    device: str,
    precision: str,
) -> Callable[[], Answering]:
    """Checks the options; what is returned loads the model.

    Raises ReactvlError where classes are missing, or differ from those of an ONNX file, whose head is made.
    """
    given = None if classes is None else read_classes(classes)
    prompts = None if templates is None else read_templates(templates)
    path = onnx_file(model)
    if path is None:
        if given is None:
            raise ReactvlError("predict: name the --classes: a file, one a line, or a comma list")
        exact, prompts = choose_precision(precision, choose_device(device)), prompts or read_templates("openai")
        return lambda: zero_shot(Encoder(load(model), device=device, precision=exact), given, prompts)
    if precision == "bf16":
        raise ReactvlError(f"{path}: computes in fp32; leave --precision out")
    classifier = OnnxClassifier(path, device=device)
    for word, mine, its in (("classes", given, classifier.classes), ("templates", prompts, classifier.templates)):
        if mine is not None and mine != its:
            raise ReactvlError(f"{path}: {differing(word, mine, its)}; they are part of the file, leave --{word} out")
    return lambda: Answering(classifier, classifier.classes, lambda scores: scores, classifier.model.id.sha256)


def differing(word: str, mine: list[str], its: list[str]) -> str:
    """The first difference of two lists, in words."""
    at = next((at for at, (a, b) in enumerate(zip(mine, its, strict=False)) if a != b), None)
    if at is None:
        return f"has {len(its):,} {word}, {len(mine):,} are given"
    return f"its {word} differ from those given ({word}[{at}] is {its[at]!r}, not {mine[at]!r})"


def zero_shot(encoder: Encoder, classes: list[str], prompts: list[str]) -> Answering:
    head = zero_shot_head(encoder, classes, prompts)
    known = sha256_json([encoder.model.id.sha256, encoder.precision, classes, prompts])
    return Answering(encoder, classes, lambda vectors: logits(vectors, head), known)


def answers(
    by: Answering, pictures: Pictures, parts: Parts, *, batch_size: int, threads: int | None, clock: Clock
) -> Iterator[tuple[Answers, bool]]:
    """The answers to all pictures in order, some at a time, and whether an earlier run gave them."""
    done = 0
    for kept in parts.kept():
        done = kept.stop
        yield kept, True
    left = range(done, len(pictures))
    for batch in encode_images(by.encoder, pictures.read, left, batch_size=batch_size, threads=threads, clock=clock):
        stop, best = done + len(batch.rows) + len(batch.bad), likeliest(by.score(batch.vectors))
        rows = np.array(batch.rows, np.int64)
        answer = Answers(done, stop, rows, best.classes, best.probabilities, batch.bad)
        done = answer.stop
        parts.add(answer)
        yield answer, False


def likeliest(scores: np.ndarray) -> Ranking:
    """The TOP likeliest classes of logits (N, C), which are used up."""
    return ranked(*scores.shape, TOP, lambda rows: with_odds(scores[rows]))
