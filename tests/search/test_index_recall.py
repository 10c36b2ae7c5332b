"""Recall against NumPy's count, and its bounds."""

import numpy as np
import pytest

from reactvl.search.exact import top_k
from reactvl.search.hits import ordered
from reactvl.search.recall import lower_bound, recall, recalls, without_own
from reactvl.search.tuned import interval


@pytest.mark.parametrize("k", [1, 10, 40])
def test_recall_is_the_share_of_the_true_rows(k):
    """Without equal scores, recall@k is |found top k and true top k| / k of every query."""
    generator = np.random.default_rng(0)
    keys = generator.standard_normal((300, 12)).astype(np.float16)
    asked = generator.standard_normal((25, 12)).astype(np.float32)
    scores = asked.astype(np.float64) @ keys.astype(np.float64).T
    shown = generator.random((25, 300)) < 0.6  # the rows that a poor search sees
    query, row = np.nonzero(shown)
    found = ordered(query, row, scores[query, row], 25, 40)
    true = np.argsort(-scores, axis=1)[:, :k]
    poor = np.argsort(np.where(shown, -scores, np.inf), axis=1)[:, :k]
    wanted = [len(set(one) & set(other)) / k for one, other in zip(true.tolist(), poor.tolist(), strict=True)]
    assert np.allclose(recalls(found, top_k(asked, [keys], 40), k), wanted)
    assert recall(found, top_k(asked, [keys], 40), k) == pytest.approx(np.mean(wanted))


def test_recall_counts_copies_by_score():
    keys = np.random.default_rng(2).standard_normal((60, 8)).astype(np.float16)
    keys = np.concatenate([keys, keys])
    asked = keys[:4].astype(np.float32)
    truth = top_k(asked, [keys], 5)
    swapped = type(truth)(truth.query, (truth.row + 60) % 120, truth.score, truth.rank, 4)
    assert recall(swapped, truth, 5) == 1.0
    assert recall(top_k(asked, [keys[:5]], 5), truth, 5) < 1.0


def test_recall_of_queries_that_found_nothing():
    keys = np.random.default_rng(3).standard_normal((50, 8)).astype(np.float16)
    truth = top_k(np.ones((3, 8), np.float32), [keys], 4)
    kept = truth.query == 1
    only = type(truth)(truth.query[kept], truth.row[kept], truth.score[kept], truth.rank[kept], 3)
    assert recall(only, truth, 4) == pytest.approx(1 / 3)
    none = type(truth)(truth.query[:0], truth.row[:0], truth.score[:0], truth.rank[:0], 3)
    assert recall(none, truth, 4) == 0.0
    assert recall(none, none, 4) == 1.0
    assert np.isnan(recalls(none, none, 4)).all()


def test_a_querys_own_row_is_left_out():
    keys = np.random.default_rng(4).standard_normal((40, 8)).astype(np.float16)
    keys = (keys / np.linalg.norm(keys.astype(np.float32), axis=1, keepdims=True)).astype(np.float16)
    own = np.array([7, 3])
    hits = without_own(top_k(keys[own].astype(np.float32), [keys], 6), own, 5)
    assert np.array_equal(np.bincount(hits.query), [5, 5])
    assert not (hits.row == own[hits.query]).any()
    assert hits.rank.tolist() == [0, 1, 2, 3, 4] * 2


def test_the_bounds_hold_as_often_as_they_say():
    """Over many drawings of 30 classes of 5 queries that succeed and fail together."""
    held, inside = [], []
    for seed in range(200):
        generator = np.random.default_rng(seed)
        group = np.repeat(np.arange(30), 5)
        each = np.clip(0.9 + 0.05 * generator.standard_normal(30)[group] + 0.01 * generator.standard_normal(150), 0, 1)
        mean = np.clip(0.9 + 0.05 * np.random.default_rng(1).standard_normal(10**5), 0, 1).mean()
        held.append(lower_bound(each, group) <= mean)
        low, high = interval(each, group, seed)
        inside.append(low <= mean <= high)
    assert 0.9 <= np.mean(held) <= 0.99
    assert 0.88 <= np.mean(inside) <= 0.99


def test_bounds_of_certainty_and_of_nothing():
    assert lower_bound(np.ones(5), np.arange(5)) == 1.0
    assert lower_bound(np.array([np.nan]), np.zeros(1, int)) == 1.0
    assert interval(np.ones(4), np.zeros(4, int), 0) == (1.0, 1.0)
    assert interval(np.empty(0), np.empty(0, int), 0) == (1.0, 1.0)
