"""Calibration error is that of its definition; reliability bins are scikit-learn's calibration curve."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from reactvl.heads.calibration import calibration_error, reliability


def restated(labels: np.ndarray, odds: np.ndarray, bins: int) -> float:
    """Guo et al.'s sum over bins (low, high], one image at a time, in float64."""
    held: dict[int, list[tuple[float, bool]]] = {}
    for label, row in zip(labels, odds.astype(np.float64), strict=True):
        best = max(range(len(row)), key=lambda number: (row[number], -number))
        at = next(number for number in range(bins) if row[best] <= np.linspace(0, 1, bins + 1)[number + 1])
        held.setdefault(at, []).append((row[best], best == label))
    gaps = [abs(sum(c for c, _ in some) - sum(r for _, r in some)) for some in held.values()]
    return sum(gaps) / len(labels)


@given(st.integers(0, 2**32 - 1), st.integers(1, 100), st.integers(1, 6), st.sampled_from([1, 2, 10, 15]))
@settings(max_examples=80, deadline=None)
def test_error_agrees_with_its_definition(seed, images, classes, bins):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    odds = rng.dirichlet(np.ones(classes), images).clip(0, 1)
    odds = odds if seed % 2 else np.round(odds, 1)  # values on the edges of bins
    assert calibration_error(labels, odds, bins) == pytest.approx(restated(labels, odds, bins), abs=1e-12)


def test_bins_agree_with_scikit_learns_curve():
    rng = np.random.default_rng(0)
    labels, odds = rng.random((500, 1)) < 0.3, rng.random((500, 1)) ** 2
    found = reliability(labels, odds, 10)
    accuracy, confidence = calibration_curve(labels[:, 0], odds[:, 0], n_bins=10)
    np.testing.assert_allclose(found.accuracy[found.count > 0], accuracy)
    np.testing.assert_allclose(found.confidence[found.count > 0], confidence)
    assert found.count.sum() == 500


def test_sure_and_right_sure_and_wrong_and_honest():
    labels = np.array([0, 1, 0, 1])
    sure = np.eye(2)[labels]
    assert calibration_error(labels, sure) == 0
    assert calibration_error(1 - labels, sure) == 1
    assert calibration_error(labels, np.full((4, 2), 0.5)) == 0  # the first of equals is right half the time
    bins = reliability(labels, sure, 4)
    assert bins.count.tolist() == [0, 0, 0, 4] and np.isnan(bins.accuracy[:3]).all() and bins.accuracy[3] == 1


def test_multilabel_answers_are_judged_each():
    labels, odds = np.array([[True, False], [True, True]]), np.array([[0.9, 0.9], [0.9, 0.1]], np.float32)
    bins = reliability(labels, odds, 2)
    assert bins.count.tolist() == [1, 3] and bins.accuracy.tolist() == [1, pytest.approx(2 / 3)]
    assert calibration_error(labels, odds, 2) == pytest.approx((0.9 + 3 * abs(0.9 - 2 / 3)) / 4)


@pytest.mark.parametrize(
    ("labels", "odds", "bins", "message"),
    [
        ([0, 1], [[20.0, 1.0], [0.0, 1.0]], 15, "probabilities"),
        ([0, 1], [[-0.1, 1.0], [0.0, 1.0]], 15, "probabilities"),
        ([0, 1], [[np.nan, 1.0], [0.0, 1.0]], 15, "NaN"),
        ([0, 1], [[0.5, 0.5]], 15, "shapes"),
        ([0, 1], [[0.5, 0.5], [0.5, 0.5]], 0, "bins 0"),
        ([], np.zeros((0, 2)), 15, "one image"),
    ],
)
def test_bad_input_is_an_error(labels, odds, bins, message):
    with pytest.raises(ValueError, match=message):
        calibration_error(np.array(labels, np.int64), np.array(odds), bins)
