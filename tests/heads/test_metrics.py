"""Our metrics agree with scikit-learn's on random and degenerate inputs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from reactvl.heads import metrics


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_metrics_agree_with_scikit_learn(seed, images, classes):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images) // rng.integers(1, 4)  # some classes stay without an image
    odds = rng.random((images, classes))
    ranked = np.argsort(-odds, axis=1)
    predicted = ranked[:, 0]
    assert metrics.accuracy(labels, predicted) == pytest.approx(reference.accuracy_score(labels, predicted))
    assert metrics.mean_per_class(labels, predicted, classes) == pytest.approx(
        reference.balanced_accuracy_score(labels, predicted)
    )
    expected = reference.confusion_matrix(labels, predicted, labels=np.arange(classes))
    np.testing.assert_array_equal(metrics.confusions(labels, predicted, classes), expected)
    recalls = metrics.recalls(labels, predicted, classes)
    present = np.bincount(labels, minlength=classes) > 0
    assert np.isnan(recalls[~present]).all()
    per_class = reference.recall_score(labels, predicted, labels=np.arange(classes), average=None, zero_division=0)
    np.testing.assert_allclose(recalls[present], per_class[present])
    for k in {1, min(5, classes)}:
        top = reference.top_k_accuracy_score(labels, odds, k=k, labels=np.arange(classes)) if classes > 2 else None
        if top is not None:
            assert metrics.top_k_accuracy(labels, ranked, k) == pytest.approx(top)


def test_all_right_all_wrong_and_one_image():
    labels = np.array([0, 1, 2])
    assert metrics.accuracy(labels, labels) == metrics.mean_per_class(labels, labels, 3) == 1.0
    assert metrics.accuracy(labels, (labels + 1) % 3) == metrics.mean_per_class(labels, (labels + 1) % 3, 3) == 0.0
    assert metrics.mean_per_class(np.array([4]), np.array([4]), 9) == 1.0


def test_mean_per_class_weighs_classes_not_images():
    labels, predicted = np.array([0] * 9 + [1]), np.zeros(10, np.int64)
    assert metrics.accuracy(labels, predicted) == 0.9
    assert metrics.mean_per_class(labels, predicted, 2) == 0.5


def test_no_image_and_too_short_rankings_are_errors():
    none = np.zeros(0, np.int64)
    for metric in metrics.METRICS.values():
        with pytest.raises(ValueError, match="image"):
            metric(none, np.zeros((0, 3)))
    with pytest.raises(ValueError, match="top-5"):
        metrics.top_k_accuracy(np.array([0]), np.array([[0, 1]]), 5)
