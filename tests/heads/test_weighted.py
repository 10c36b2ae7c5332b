"""A metric under weights is the metric of the images, each as often as its weight says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactvl.heads.metrics import METRICS, RECALL_LEVELS
from reactvl.heads.weighted import positives_at, weighted_metric


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 60),
    st.integers(1, 4),
    st.sampled_from([1, 3, 1000]),
    st.sampled_from(["roc_auc", "11point_mAP"]),
)
@settings(max_examples=150, deadline=None)
def test_weights_are_repetitions(seed, images, classes, values, name):
    rng = np.random.default_rng(seed)
    labels = rng.random((images, classes)) < 0.4
    scores = rng.integers(0, values, (images, classes)) / values
    weights = rng.integers(0, 3, (images, 6)).astype(np.float32)
    weights[:, 0] = 1
    found = weighted_metric(name, labels, scores)(weights)
    for draw in range(6):
        rows = np.repeat(np.arange(images), weights[:, draw].astype(int))
        expected = METRICS[name](labels[rows], scores[rows]) if len(rows) else np.nan
        np.testing.assert_allclose(found[draw], expected, atol=2e-7)


def test_of_two_classes_the_second_is_ranked():
    rng = np.random.default_rng(0)
    labels, odds = rng.integers(0, 2, 40), rng.dirichlet([1, 1], 40)
    found = weighted_metric("roc_auc", labels, odds)(np.ones((40, 1), np.float32))
    assert found[0] == pytest.approx(METRICS["roc_auc"](labels, odds), abs=1e-12)


def test_a_recall_is_reached_by_the_count_whose_quotient_reaches_it():
    totals = np.arange(1, 3000, dtype=np.float64)
    for level in RECALL_LEVELS:
        counts = positives_at(level, totals).astype(np.float64)
        assert (counts / totals >= level).all() and ((counts - 1) / totals < level).all()


def test_other_metrics_are_refused():
    with pytest.raises(ValueError, match="accuracy"):
        weighted_metric("accuracy", np.array([0, 1]), np.eye(2))
