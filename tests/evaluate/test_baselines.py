"""Label-free baselines: classes found by name, means and linear heads equal to plain restatements."""

import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression

from reactvl.evaluate import baselines
from reactvl.evaluate.baselines import Head, Retrieved, matched, mixed_means, training_rows
from reactvl.tasks import Task

DIM = 6


def task(*classes: str | tuple[str, ...]) -> Task:
    names = [(one,) if isinstance(one, str) else one for one in classes]
    return Task("t", [one[0] for one in names], ["{}"], "accuracy", Path(), {}, synonyms=names)


@pytest.fixture
def retrieved():
    """30 pairs of classes 0, 1, 3 (2 has none), about a direction each."""
    rng = np.random.default_rng(3)
    ids = np.repeat([0, 1, 3], [8, 10, 12])
    made = rng.standard_normal((4, DIM))[ids] + 0.3 * rng.standard_normal((30, DIM))
    made = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)
    pairs = SimpleNamespace(classes=["a", "b", "c", "d"], table=lambda columns: pa.table({"class_id": ids}))
    usable = np.ones(30, bool)
    usable[5] = False
    found = Retrieved(pairs, usable, lambda rows: made[rows])
    found.ids, found.made = ids, made
    return found


def test_classes_are_matched_by_any_of_their_names():
    known = ["Red_Panda", "raccoon", "missile", "missile", "sunglasses", "kite"]
    found = matched(
        task("red panda", ("coon", "raccoon"), "missile", "missile", "sunglasses", "sunglasses", "x"), known
    )
    assert found == [[0], [1], [2], [3], [4], [4], []]
    assert matched(task("missile", "kite"), known) == [[2, 3], [5]]


def test_mixed_means_are_halves_of_mean_and_text(retrieved):
    text = np.eye(DIM, dtype=np.float32)[:4]
    head = mixed_means(retrieved, [[0], [1, 3], [2], []], text)
    unit = lambda v: v / np.linalg.norm(v)  # noqa: E731
    first = unit(retrieved.made[[0, 1, 2, 3, 4, 6, 7]].mean(axis=0))
    second = unit(retrieved.made[8:].mean(axis=0))
    rest = unit((first + second) / 2)  # classes without pairs
    expected = [unit((mean + own) / 2) for mean, own in zip((first, second, rest, rest), text, strict=True)]
    assert np.allclose(head.weights, expected, atol=1e-6)
    assert head.scores(text).shape == (4, 4) and np.allclose(head.scores(text), 100 * text @ head.weights.T, atol=1e-4)
    assert mixed_means(retrieved, [[2], []], text[:2]) is None


def test_the_linear_head_is_scikit_learns_at_its_penalty(retrieved):
    members = [[0], [2], [1], [3]]
    head, l2 = baselines.linear(retrieved, members)
    assert l2 in baselines.L2
    rows, labels = training_rows(retrieved, members)
    assert np.array_equal(labels, np.repeat([0, 2, 3], [7, 10, 12]))
    reference = LogisticRegression(C=1 / l2, tol=1e-8, max_iter=10_000).fit(retrieved.made[rows], labels)
    scores = head.scores(retrieved.made)
    assert (scores[:, 1] < -1e3).all()  # the class without pairs
    odds = np.exp(scores[:, [0, 2, 3]])
    assert np.allclose(odds / odds.sum(axis=1, keepdims=True), reference.predict_proba(retrieved.made), atol=2e-3)


def test_of_too_many_pairs_the_best_ranks_of_every_class_are_taken(retrieved, monkeypatch):
    monkeypatch.setattr(baselines, "LINEAR_PAIRS", 12)
    rows, labels = training_rows(retrieved, [[0], [1], [2], [3]])
    assert rows.tolist() == [0, 1, 2, 3, 8, 9, 10, 11, 18, 19, 20, 21]
    assert labels.tolist() == [0] * 4 + [1] * 4 + [3] * 4


def test_without_two_classes_of_pairs_there_is_no_linear_head(retrieved):
    assert baselines.linear(retrieved, [[0], [2]]) is None
    assert baselines.linear(retrieved, [[], []]) is None


def test_few_pairs_a_class_end_without_a_warning(retrieved):
    retrieved.usable[:] = False
    retrieved.usable[[0, 8, 18]] = True  # one each: nothing can be held out
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head, l2 = baselines.linear(retrieved, [[0], [1], [3]])
    assert np.array_equal(head.scores(retrieved.made[[0, 8, 18]]).argmax(axis=1), [0, 1, 2])
    assert l2 == baselines.L2[len(baselines.L2) // 2]


def test_a_head_adds_its_bias():
    head = Head(np.eye(2, dtype=np.float32), np.array([1, -1], np.float32), 2.0)
    assert head.scores(np.ones((1, 2), np.float32)).tolist() == [[3.0, 1.0]]
