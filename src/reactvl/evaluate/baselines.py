"""Label-free baselines: what a base model reaches with what customization had, but without customization.

- synonyms: the zero-shot head over all names of every class, where classes have several.
- retrieved means: per class the normalised mean of the retrieved images' features, mixed half and half with the
  zero-shot head and normalised again. The half is fixed: without labels nothing could choose it.
- retrieved linear: multinomial logistic regression on the retrieved images' features, their classes taken for labels;
  its L2 penalty is chosen on a fifth of the pairs, then all pairs are fitted.

A customized model that does not beat them has learned nothing that the base and the pairs do not say already.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from reactvl.evaluate.features import Features
from reactvl.handles.pairs import Pairs
from reactvl.manifest import ModelId
from reactvl.tasks import Task

MIX = 0.5  # the images' share of the class's vector
LINEAR_PAIRS = 200_000  # that the linear head is fitted on; of more, the best ranks of every class
L2 = np.logspace(-4, 4, 17)  # times the sum of squared weights, against the sum of the pairs' losses
HELD_OUT = 0.2
ROWS = 65_536  # pairs whose vectors are read at once


@dataclasses.dataclass(frozen=True)
class Head:
    """A linear classifier: scores are `scale` x features . weights + bias; weights float32 (C, dim), bias (C,)."""

    weights: np.ndarray
    bias: np.ndarray | None = None
    scale: float = 100.0

    def scores(self, vectors: np.ndarray) -> np.ndarray:
        """float32 (N, C)."""
        made = vectors @ (np.float32(self.scale) * self.weights.T)
        return made if self.bias is None else made + self.bias


class Retrieved:
    """Retrieved pairs as a training set: the class of each, and its image's features by the base model.

    `vectors(rows)` gives float32 (len(rows), dim), L2-normalised, of pairs that could be read.
    """

    def __init__(self, pairs: Pairs, usable: np.ndarray, vectors: Callable[[np.ndarray], np.ndarray]):
        self.classes = pairs.classes
        class_ids = pairs.table(["class_id"])["class_id"].to_numpy()  # ascending
        self.edges = np.searchsorted(class_ids, np.arange(len(self.classes) + 1))
        self.usable, self.vectors = usable, vectors

    def rows_of(self, classes: Sequence[int]) -> np.ndarray:
        """The usable pairs of some of the pairs' classes, int64, of each class the best ranks first."""
        rows = [np.arange(self.edges[one], self.edges[one + 1]) for one in classes]
        rows = np.concatenate([np.zeros(0, np.int64), *rows])
        return rows[self.usable[rows]]


def embedded(pairs: Pairs, model: ModelId) -> bool:
    """Whether the features of the pairs' images by this very model stand in the embeddings they were chosen from."""
    embeddings = pairs.embeddings
    return embeddings.model.sha256 == model.sha256 and all(part.images() is not None for part in embeddings.parts)


def from_embeddings(pairs: Pairs) -> Retrieved:
    """The pairs with the vectors of the embeddings that they were chosen from."""
    parts = {part.number: part.images() for part in pairs.embeddings.parts}
    table = pairs.table(["part", "row"])
    part_of, row_of = table["part"].to_numpy(), table["row"].to_numpy()

    def vectors(rows: np.ndarray) -> np.ndarray:
        made = np.empty((len(rows), pairs.embeddings.model.dim), np.float32)
        for number in np.unique(part_of[rows]):
            at = np.flatnonzero(part_of[rows] == number)
            made[at] = parts[int(number)][row_of[rows[at]]]
        return made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-12)

    return Retrieved(pairs, np.ones(len(pairs), bool), vectors)


def from_features(pairs: Pairs, features: Features) -> Retrieved:
    """The pairs with the vectors that were encoded for the evaluation."""
    usable = np.zeros(len(pairs), bool)
    usable[features.rows] = True
    return Retrieved(pairs, usable, features.of)


def matched(task: Task, classes: Sequence[str]) -> list[list[int]]:
    """Of every class of a task, which of the pairs' classes it is, by any of its names; case, `_` and spaces do not
    matter. Where a name stands as often here as there (ImageNet's two "missile"), they are taken in their order."""
    known: dict[str, list[int]] = {}
    for number, name in enumerate(classes):
        known.setdefault(folded(name), []).append(number)
    own: dict[str, list[int]] = {}
    for label, name in enumerate(task.classes):
        own.setdefault(folded(name), []).append(label)
    found = []
    for label, names in enumerate(task.synonyms):
        named = next((folded(name) for name in (task.classes[label], *names) if folded(name) in known), None)
        there = known.get(named, [])
        here = own.get(named, [])
        found.append([there[here.index(label)]] if label in here and len(here) == len(there) else list(there))
    return found


def folded(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def mixed_means(retrieved: Retrieved, members: Sequence[Sequence[int]], text: np.ndarray) -> Head | None:
    """The head of class means mixed with the zero-shot head `text` (C, dim); None where no class has a pair.

    A class without a pair has the mean of the other classes' means in its place: with its text alone it would lie apart
    from all images, as texts do, and be chosen never or always.
    """
    means = np.zeros(text.shape, np.float64)
    present = np.zeros(len(text), bool)
    for label, classes in enumerate(members):
        rows = retrieved.rows_of(classes)
        for start in range(0, len(rows), ROWS):
            means[label] += retrieved.vectors(rows[start : start + ROWS]).sum(axis=0, dtype=np.float64)
        present[label] = len(rows) > 0
    if not present.any():
        return None
    means[present] = unit(means[present])
    means[~present] = unit(means[present].mean(axis=0))
    return Head(unit((1 - MIX) * text + MIX * means).astype(np.float32))


def linear(retrieved: Retrieved, members: Sequence[Sequence[int]], seed: int = 0) -> tuple[Head, float] | None:
    """The logistic regression on retrieved pairs and its L2 penalty; None where fewer than two classes have pairs.

    A class without a pair is never chosen: its bias is minus infinity's stand-in, -1e4.
    """
    from reactvl.heads import logistic
    from reactvl.heads.few_shot import split

    rows, labels = training_rows(retrieved, members)
    seen = np.unique(labels)
    if len(seen) < 2:
        return None
    places = np.searchsorted(seen, labels)
    vectors = retrieved.vectors(rows)
    train, held = split(places, HELD_OUT, seed)
    l2 = float(L2[len(L2) // 2])
    if len(held):
        tried = logistic.fit(vectors[train], places[train], L2, classes=len(seen))
        right = [
            (Head(weights, bias, 1.0).scores(vectors[held]).argmax(axis=1) == places[held]).mean()
            for weights, bias in zip(tried.weights, tried.bias, strict=True)
        ]
        best = np.flatnonzero(np.asarray(right) >= max(right) - 1e-12)
        l2 = float(L2[best[len(best) // 2]])  # the middle of equals
    fitted = logistic.fit(vectors, places, [l2], classes=len(seen))
    weights = np.zeros((len(members), vectors.shape[1]), np.float32)
    bias = np.full(len(members), -1e4, np.float32)
    weights[seen], bias[seen] = fitted.weights[0], fitted.bias[0]
    return Head(weights, bias, 1.0), l2


def training_rows(retrieved: Retrieved, members: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs and the task's label of each, at most `LINEAR_PAIRS`, the best ranks of every class."""
    chosen = [retrieved.rows_of(classes) for classes in members]
    if sum(map(len, chosen)) > LINEAR_PAIRS:
        each = max(LINEAR_PAIRS // sum(len(rows) > 0 for rows in chosen), 1)
        chosen = [rows[:each] for rows in chosen]
    labels = np.repeat(np.arange(len(members)), [len(rows) for rows in chosen])
    return np.concatenate([np.zeros(0, np.int64), *chosen]), labels


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
