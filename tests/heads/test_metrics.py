"""Our metrics agree with scikit-learn's, and with ELEVATER's 11-point precision restated, on random and degenerate inputs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from reactvl.heads import metrics
from reactvl.heads.metrics import METRICS
from reactvl.tasks.benchmarks import names


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore")
def test_metrics_agree_with_scikit_learn(seed, images, classes):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images) // rng.integers(1, 4)  # some classes stay without an image
    odds = rng.random((images, classes))
    ranked = np.argsort(-odds, axis=1)
    predicted = ranked[:, 0]
    share = reference.accuracy_score(labels, predicted)
    assert metrics.accuracy(labels, predicted) == METRICS["accuracy"](labels, odds) == pytest.approx(share)
    balanced = reference.balanced_accuracy_score(labels, predicted)
    assert metrics.mean_per_class(labels, predicted, classes) == pytest.approx(balanced)
    assert METRICS["mean-per-class"](labels, odds) == pytest.approx(balanced)
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


def drawn_scores(seed: int, images: int, classes: int, values: int) -> tuple[np.ndarray, np.ndarray]:
    """Multilabel answers in (0, 1) of at most `values` different scores, so that ties abound; class 0 has a positive."""
    rng = np.random.default_rng(seed)
    labels = rng.random((images, classes)) < rng.random(classes)
    labels[rng.integers(images), 0] = True
    return labels, rng.integers(0, values, (images, classes)) / values


cases = given(st.integers(0, 2**32 - 1), st.integers(1, 80), st.integers(1, 5), st.sampled_from([1, 2, 7, 1000]))


@cases
@settings(max_examples=150, deadline=None)
def test_roc_auc_agrees_with_scikit_learn(seed, images, classes, values):
    labels, scores = drawn_scores(seed, images, classes, values)
    there = [number for number in range(classes) if 0 < labels[:, number].sum() < images]
    found = METRICS["roc_auc"](labels, scores)
    if there:
        assert found == pytest.approx(reference.roc_auc_score(labels[:, there], scores[:, there]), abs=1e-12)
    else:
        assert np.isnan(found)
    if 0 in there:  # of two classes: by the probability of the second
        two = np.stack([1 - scores[:, 0], scores[:, 0]], axis=1)
        binary = labels[:, 0].astype(np.int64)
        assert METRICS["roc_auc"](binary, two) == pytest.approx(reference.roc_auc_score(binary, two[:, 1]), abs=1e-12)


def test_roc_auc_of_more_than_two_classes_is_the_mean_of_each_against_the_rest():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 200)
    odds = rng.dirichlet(np.ones(4), 200)
    expected = reference.roc_auc_score(labels, odds, multi_class="ovr", average="macro")
    assert METRICS["roc_auc"](labels, odds) == pytest.approx(expected, abs=1e-12)


def eleven_points(positive: np.ndarray, scores: np.ndarray, rule: str) -> float:
    """From the definition, in float64: every threshold, the images at or above it, the best precision at a recall."""
    points = [(0.0, 1.0)] if rule == "elevater" else []
    for threshold in np.unique(scores):
        shown = scores >= threshold
        points.append((positive[shown].sum() / positive.sum(), positive[shown].mean()))
    return np.mean([max(p for r, p in points if r >= level) for level in np.linspace(1, 0, 11)])


@cases
@settings(max_examples=150, deadline=None)
def test_mean_average_precision_agrees_with_its_definition(seed, images, classes, values):
    labels, scores = drawn_scores(seed, images, classes, values)
    there = [number for number in range(classes) if labels[:, number].any()]
    for rule in ("elevater", "voc"):
        expected = np.mean([eleven_points(labels[:, number], scores[:, number], rule) for number in there])
        assert metrics.mean_average_precision(labels, scores, rule=rule) == pytest.approx(expected, abs=1e-12)
    assert METRICS["11point_mAP"](labels, scores) == metrics.mean_average_precision(labels, scores)


@cases
@settings(max_examples=60, deadline=None)
def test_elevaters_points_are_those_of_scikit_learns_curve(seed, images, classes, values):
    labels, scores = drawn_scores(seed, images, classes, values)
    precision, recall, _ = reference.precision_recall_curve(labels[:, 0], scores[:, 0])
    expected = np.mean([precision[recall >= level].max() for level in np.linspace(1, 0, 11)])
    assert metrics.average_precision(labels[:, 0], scores[:, 0]) == pytest.approx(expected, abs=1e-12)


def test_a_perfect_a_useless_and_an_undecided_model():
    labels = np.array([[True], [True], [False], [False]])
    perfect, wrong, even = (np.array(values)[:, None] for values in ([4, 3, 2, 1], [1, 2, 3, 4], [0, 0, 0, 0]))
    assert [METRICS["roc_auc"](labels, scores) for scores in (perfect, wrong, even)] == [1, 0, 0.5]
    assert METRICS["11point_mAP"](labels, perfect) == 1
    assert METRICS["11point_mAP"](labels, even) == pytest.approx((10 * 0.5 + 1) / 11)
    assert metrics.mean_average_precision(labels, even, rule="voc") == 0.5
    assert METRICS["accuracy"](np.array([0, 1]), np.zeros((2, 3))) == 0.5  # of equals the first


def test_classes_without_a_positive_are_left_out():
    labels, scores = drawn_scores(1, 50, 3, 1000)
    empty = np.concatenate([labels, np.zeros((50, 1), bool)], axis=1)
    more = np.concatenate([scores, np.ones((50, 1))], axis=1)
    for name in ("roc_auc", "11point_mAP"):
        assert METRICS[name](empty, more) == METRICS[name](labels, scores)
        assert np.isnan(METRICS[name](np.zeros((5, 2), bool), np.ones((5, 2))))
    assert np.isnan(METRICS["roc_auc"](np.zeros(4, np.int64), np.full((4, 2), 0.5)))
    assert np.isnan(METRICS["roc_auc"](np.ones((4, 1), bool), np.ones((4, 1))))


def test_all_right_all_wrong_and_one_image():
    labels = np.array([0, 1, 2])
    assert metrics.accuracy(labels, labels) == metrics.mean_per_class(labels, labels, 3) == 1.0
    assert metrics.accuracy(labels, (labels + 1) % 3) == metrics.mean_per_class(labels, (labels + 1) % 3, 3) == 0.0
    assert metrics.mean_per_class(np.array([4]), np.array([4]), 9) == 1.0


def test_mean_per_class_weighs_classes_not_images():
    labels, predicted = np.array([0] * 9 + [1]), np.zeros(10, np.int64)
    assert metrics.accuracy(labels, predicted) == 0.9
    assert metrics.mean_per_class(labels, predicted, 2) == 0.5


def test_every_benchmarks_metric_is_known():
    from reactvl.tasks.benchmarks import metric_of

    assert {metric_of(name) for name in names()} == set(METRICS)


@pytest.mark.parametrize("name", METRICS)
def test_what_has_no_score_is_refused(name):
    labels = np.array([0, 1])
    with pytest.raises(ValueError, match="image"):
        METRICS[name](np.zeros(0, np.int64), np.zeros((0, 3)))
    with pytest.raises(ValueError, match="1 of 2 images are NaN"):
        METRICS[name](labels, np.array([[0.5, 0.5], [np.nan, 0.5]]))
    with pytest.raises(ValueError, match="shapes"):
        METRICS[name](labels, np.zeros((3, 2)))
    with pytest.raises(ValueError, match="shapes"):
        METRICS[name](labels, np.zeros(2))
    with pytest.raises(ValueError, match="from 0 to 1"):
        METRICS[name](np.array([0, 2]), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="from 0 to 1"):
        METRICS[name](np.array([0, -1]), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="bool"):
        METRICS[name](np.zeros((2, 2), np.int64), np.zeros((2, 2)))


def test_metrics_of_one_label_refuse_several_and_logits_are_no_probabilities():
    several = np.ones((2, 2), bool)
    for name in ("accuracy", "mean-per-class"):
        with pytest.raises(ValueError, match="multilabel"):
            METRICS[name](several, np.zeros((2, 2)))
    with pytest.raises(ValueError, match="probabilities"):
        METRICS["roc_auc"](np.array([0, 1]), np.array([[20.0, 25.0], [21.0, 19.0]]))
    with pytest.raises(ValueError, match="top-5"):
        metrics.top_k_accuracy(np.array([0]), np.array([[0, 1]]), 5)
