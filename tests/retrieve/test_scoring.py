"""How z-scores are made and joined."""

import importlib

import numpy as np
import pytest

from reactvl.retrieve.scoring import FitScores, joined, mean_queries


@pytest.fixture
def pool():
    generator = np.random.default_rng(0)
    images, texts = (generator.standard_normal((500, 16)).astype(np.float16) for _ in range(2))
    means = mean_queries(generator.standard_normal((12, 16)).astype(np.float32), np.repeat(np.arange(4), 3), 4)
    return means, {"t2i": [images[:200], images[200:]], "t2t": [texts[:200], texts[200:]]}


def test_z_scores_are_those_of_the_whole_pool(pool):
    """Over a pool that is no larger than the sample, every class and mode has mean 0 and deviation 1."""
    means, sides = pool
    scores = FitScores(dict.fromkeys(sides, means), sides, seed=0).of(np.arange(500))
    for mode, values in scores.items():
        raw = np.concatenate(sides[mode]).astype(np.float64) @ means.T
        assert np.allclose(values, (raw - raw.mean(axis=0)) / raw.std(axis=0), atol=1e-6)


def test_pairs_in_any_order_have_the_scores_of_their_rows(pool, monkeypatch):
    monkeypatch.setattr(importlib.import_module("reactvl.retrieve.scoring"), "CHUNK_ROWS", 37)
    means, sides = pool
    fit = FitScores(dict.fromkeys(sides, means), sides, seed=0)
    every = fit.of(np.arange(500))
    whole = joined(list(every.values()))
    generator = np.random.default_rng(1)
    name, row = generator.integers(0, 4, 900), generator.integers(0, 500, 900)
    found = fit.of_pairs(name, row)
    assert np.array_equal(found.joint, whole[row, name])
    assert np.array_equal(found.best, whole.argmax(axis=1)[row])
    for mode, values in found.by_mode.items():
        assert np.array_equal(values, every[mode][row, name])


def test_a_mean_query_is_the_ensembles():
    vectors = np.array([[2.0, 0, 0], [0, 1, 0], [0, 0, 3]], np.float32)
    means = mean_queries(vectors, np.array([0, 0, 1]), 2)
    assert np.allclose(means, [[0.5**0.5, 0.5**0.5, 0], [0, 0, 1]])


def test_joining_modes():
    """Either mode carries a pair, both carry it further, and order is kept where all are negative."""
    image, text = np.array([3.0, 0, 3, -1, -2, -1]), np.array([-5.0, 4, 4, -3, -3, 0])
    assert joined([image, text]).tolist() == [3, 4, 5, -1, -2, 0]
    assert joined([image]).tolist() == image.tolist()


def test_a_class_that_nothing_tells_apart(pool):
    """A pool of equal rows has no spread: its z-scores are 0, not infinite."""
    means, _ = pool
    same = np.tile(np.ones(16, np.float16), (50, 1))
    scores = FitScores({"t2i": means}, {"t2i": [same]}, seed=0).of(np.arange(50))["t2i"]
    assert np.abs(scores).max() < 1e-6
