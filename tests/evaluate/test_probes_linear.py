"""Probes of a task from stored features: what is drawn, what is chosen, what comes back."""

import dataclasses
from pathlib import Path

import numpy as np

from reactvl.evaluate import probes
from reactvl.heads import few_shot, probe, sweep
from reactvl.tasks import Task


def accuracy(labels: np.ndarray, scores: np.ndarray) -> float:
    return float((scores.argmax(axis=1) == labels).mean())


def task_of(classes: int) -> Task:
    return Task("shapes", [f"shape {name}" for name in range(classes)], ["a {}"], "accuracy", Path("shapes"), {})


def data(rows: int, classes: int = 4, dim: int = 12, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    means = np.random.default_rng(99).standard_normal((classes, dim))
    vectors = means[labels] + 1.2 * rng.standard_normal((rows, dim))
    head = means + 1.5 * np.random.default_rng(7).standard_normal(means.shape)
    return unit(vectors), labels, unit(head)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_more_shots_do_better_than_the_head_they_begin_at():
    vectors, labels, head = data(400)
    test_vectors, test_labels, _ = data(300, seed=1)
    told = []
    found = probes.probe_task(
        vectors, labels, task_of(4), test_vectors, head, shots=["5", "all"], seeds=[0, 1],
        done=lambda shots, seed: told.append((shots, seed)),
    )  # fmt: skip
    assert list(found) == ["5", "all"]
    assert told == [("5", 0), ("5", 1), ("all", 0), ("all", 1)]
    for name, images in (("5", 20), ("all", 400)):
        one = found[name]
        assert one.scores.shape == (2, 300, 4)
        assert one.scores.dtype == np.float32
        np.testing.assert_allclose(one.scores.sum(axis=2), 1, atol=1e-5)
        assert [setting["images"] for setting in one.chosen] == [images] * 2
        assert one.trained == 4 * 13
    assert not np.array_equal(found["5"].scores[0], found["5"].scores[1])
    before = accuracy(test_labels, test_vectors @ head.T)
    few, every = (np.mean([accuracy(test_labels, scores) for scores in found[name].scores]) for name in ("5", "all"))
    assert every > few
    assert every > before


def test_a_probe_is_the_setting_of_the_sweep_trained_on_all_that_was_drawn():
    vectors, labels, head = data(200)
    test_vectors, _, _ = data(50, seed=1)
    found = probes.probe_task(vectors, labels, task_of(4), test_vectors, head, shots=[20], seeds=[2])["20"]
    taken = few_shot.rows(labels, 20, 2, 4)
    train, judges = few_shot.split(labels[taken])
    best = sweep.choose(
        vectors[taken][train], labels[taken][train], vectors[taken][judges], labels[taken][judges],
        classes=4, head=head, metric=accuracy, seed=2,
    )  # fmt: skip
    assert (found.chosen[0]["lr"], found.chosen[0]["l2"]) == (best.lr, best.l2)
    made = probe.fit(vectors[taken], labels[taken], classes=4, head=head, lr=best.lr, l2=best.l2, seed=2)
    np.testing.assert_array_equal(found.scores[0], made.scores(test_vectors))


def test_one_shot_has_nothing_to_choose_by_and_keeps_near_the_head():
    """No class can give up its only image: the lowest rate is taken, and the validation score is not a number."""
    vectors, labels, head = data(200)
    test_vectors, _, _ = data(50, seed=1)
    found = probes.probe_task(vectors, labels, task_of(4), test_vectors, head, shots=["1"], seeds=[0])["1"]
    assert found.chosen[0]["lr"] == 1e-6
    assert np.isnan(found.chosen[0]["validation"])


def test_the_search_sees_a_bounded_number_of_images(monkeypatch):
    vectors, labels, head = data(300)
    seen = []
    choose = sweep.choose
    monkeypatch.setattr(probes, "SEARCHED", 10)
    monkeypatch.setattr(sweep, "choose", lambda *given, **named: seen.append(len(given[0])) or choose(*given, **named))
    found = probes.probe_task(vectors, labels, task_of(4), vectors[:5], head, shots=["all"], seeds=[0])["all"]
    assert seen == [32]  # four fifths of 4 x 10
    assert found.chosen[0]["images"] == 300


def test_an_image_may_have_several_labels():
    vectors, labels, head = data(300)
    several = (labels[:, None] == np.arange(4)) | (np.random.default_rng(0).random((300, 4)) < 0.2)
    task = dataclasses.replace(task_of(4), metric="11point_mAP", multilabel=True)
    found = probes.probe_task(vectors, several, task, vectors, head, shots=["20", "all"], seeds=[0])
    for one in found.values():
        assert ((one.scores > 0) & (one.scores < 1)).all()
    assert ((found["all"].scores[0] > 0.5) == several).mean() > 0.1 + (~several).mean()  # than saying no to all
