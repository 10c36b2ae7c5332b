"""Few shots and validation parts, held against restatements of what ELEVATER's toolkit does."""

import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactvl.heads import few_shot


def drawn_by_hand(labels: list[list[int]], shots: int, seed: int, classes: int) -> list[int]:
    """The draw, an image at a time, over lists of labels."""
    order = list(range(len(labels)))
    random.Random(seed).shuffle(order)
    counts, negatives, taken = [0] * classes, 0, []
    for row in order:
        if not labels[row]:
            if negatives < shots:
                negatives += 1
                taken.append(row)
            continue
        own = [counts[name] for name in labels[row]]
        if min(own) >= shots:
            continue
        if min(own) <= shots / 2 or max(own) <= 1.5 * shots:
            taken.append(row)
            for name in labels[row]:
                counts[name] += 1
        if min(counts) >= shots:
            break
    return taken


def labelled(rng: np.random.Generator, rows: int, classes: int) -> np.ndarray:
    return rng.random((rows, classes)) < np.linspace(0.05, 0.6, classes)


@pytest.mark.parametrize("shots", [1, 5, 20])
def test_shots_are_those_of_the_toolkit(shots):
    rng = np.random.default_rng(shots)
    single = rng.integers(0, 6, 200)
    several = labelled(rng, 300, 6)
    for seed in (0, 1, 2):
        assert few_shot.rows(single, shots, seed, 6).tolist() == drawn_by_hand([[y] for y in single], shots, seed, 6)
        lists = [np.flatnonzero(row).tolist() for row in several]
        assert few_shot.rows(several, shots, seed, 6).tolist() == drawn_by_hand(lists, shots, seed, 6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 8), st.integers(0, 5))
def test_every_class_has_its_shots_or_all_of_its_images(labels, shots, seed):
    labels = np.array(labels)
    taken = few_shot.rows(labels, shots, seed, 5)
    assert len(set(taken.tolist())) == len(taken)
    have, drawn = Counter(labels.tolist()), Counter(labels[taken].tolist())
    assert drawn == {name: min(count, shots) for name, count in have.items()}
    np.testing.assert_array_equal(taken, few_shot.rows(labels, shots, seed, 5))


def test_all_is_every_row_and_seeds_differ():
    labels = np.arange(100) % 4
    assert few_shot.rows(labels, "all", 1, 4).tolist() == list(range(100))
    assert few_shot.rows(labels, "5", 0, 4).tolist() != few_shot.rows(labels, "5", 1, 4).tolist()


def test_validation_is_a_fifth_of_each_class_rounded_up():
    """The first rows of each class, as the toolkit takes them; a lone row stays for training."""
    labels = np.array([0] * 5 + [1] * 11 + [2] * 2 + [3])
    train, judges = few_shot.split(labels)
    assert judges.tolist() == [0, 5, 6, 7, 16]
    assert sorted([*train, *judges]) == list(range(19))
    counts = Counter(labels[judges].tolist())
    assert all(counts[name] == math.ceil(0.2 * count) for name, count in ((0, 5), (1, 11), (2, 2)))


def test_a_seed_shuffles_the_validation_part():
    labels = np.arange(200) % 4
    parts = [few_shot.split(labels, 0.25, seed)[1].tolist() for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]
    assert Counter(labels[parts[2]].tolist()) == dict.fromkeys(range(4), 13)


def test_validation_of_several_labels_has_its_share_of_every_class():
    labels = labelled(np.random.default_rng(0), 400, 5)
    train, judges = few_shot.split(labels)
    assert sorted([*train, *judges]) == list(range(400))
    assert (labels[judges].sum(axis=0) >= np.ceil(0.2 * labels.sum(axis=0))).all()
    assert len(judges) < 200


@pytest.mark.parametrize(
    ("labels", "shots", "message"),
    [([0, 3], 1, "3 classes"), ([0, -1], 1, "3 classes"), ([0, 1], 0, "1 or more"), ([[True, False]], 1, "3 classes")],
)
def test_bad_draws_are_refused(labels, shots, message):
    with pytest.raises(ValueError, match=message):
        few_shot.rows(np.array(labels), shots, 0, 3)


@pytest.mark.parametrize("share", [0, 1, -0.5])
def test_a_share_is_a_share(share):
    with pytest.raises(ValueError, match="share"):
        few_shot.split(np.zeros(4, int), share)
