"""Converged logistic regression of many penalties at once, held against scikit-learn's, one penalty at a time."""

import warnings

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from reactvl.heads import logistic
from reactvl.heads.products import product

PENALTIES = np.logspace(-2, 4, 13)


def problem(rows: int, dim: int, classes: int, seed: int = 0, spread: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes; a few directions carry most of the variance, as in image features, and the mean is not 0."""
    rng = np.random.default_rng(seed)
    scale = (1 + np.arange(dim)) ** -0.5
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, rows - classes)])
    means = rng.standard_normal((classes, dim)) * scale * spread
    features = means[labels] + rng.standard_normal((rows, dim)) * scale + 0.5
    return features.astype(np.float32), labels


def theirs(features, labels, penalty, tol=1e-10, **options):
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return LogisticRegression(C=1 / penalty, tol=tol, max_iter=5000, **options).fit(
            features.astype(np.float64), labels
        )


def objective(features, labels, penalty, weights, bias) -> float:
    """The mean penalised loss of a softmax head in float64."""
    odds = log_softmax(features.astype(np.float64) @ weights.T.astype(np.float64) + bias, axis=1)
    return -odds[np.arange(len(labels)), labels].mean() + penalty / 2 / len(labels) * np.square(weights).sum()


@pytest.mark.parametrize(("rows", "dim", "classes"), [(400, 20, 5), (30, 50, 3), (300, 8, 40)])
def test_coefficients_are_scikit_learns(rows, dim, classes):
    """Also with fewer rows than dimensions, and with more classes than the other layout of scores takes."""
    features, labels = problem(rows, dim, classes)
    found = logistic.fit(features, labels, PENALTIES, classes=classes, tol=1e-14, dtype=torch.float64)
    for penalty, weights, bias in zip(PENALTIES, found.weights, found.bias, strict=True):
        wanted = theirs(features, labels, penalty)
        np.testing.assert_allclose(weights, wanted.coef_, atol=2e-5 * max(1, np.abs(wanted.coef_).max()))
        np.testing.assert_allclose(bias - bias.mean(), wanted.intercept_ - wanted.intercept_.mean(), atol=2e-4)


def test_two_classes_are_scikit_learns_one_vector():
    features, labels = problem(300, 12, 2)
    found = logistic.fit(features, labels, PENALTIES, classes=2, tol=1e-14, dtype=torch.float64)
    for penalty, weights, bias in zip(PENALTIES, found.weights, found.bias, strict=True):
        wanted = theirs(features, labels, penalty)
        np.testing.assert_allclose(weights[1] - weights[0], wanted.coef_[0], atol=1e-5)
        np.testing.assert_allclose(bias[1] - bias[0], wanted.intercept_[0], atol=1e-5)
        np.testing.assert_array_equal(weights[0], -weights[1])


def test_multilabel_heads_are_a_regression_each():
    features, labels = problem(300, 12, 4)
    several = np.stack([labels == 0, (labels == 1) | (features[:, 0] > 0.5), labels >= 2], axis=1)
    found = logistic.fit(features, several, [0.5, 20.0], classes=3, tol=1e-14, dtype=torch.float64)
    for place, penalty in enumerate((0.5, 20.0)):
        for name in range(3):
            wanted = theirs(features, several[:, name], penalty)
            np.testing.assert_allclose(found.weights[place, name], wanted.coef_[0], atol=1e-5)
            assert found.bias[place, name] == pytest.approx(wanted.intercept_[0], abs=1e-5)


def test_float32_predicts_what_scikit_learn_predicts():
    features, labels = problem(1200, 30, 6)
    train, test = slice(0, 800), slice(800, None)
    found = logistic.fit(features[train], labels[train], PENALTIES, classes=6, tol=1e-7)
    for penalty, weights, bias in zip(PENALTIES, found.weights, found.bias, strict=True):
        wanted = theirs(features[train], labels[train], penalty).predict(features[test])
        assert ((features[test] @ weights.T + bias).argmax(axis=1) == wanted).mean() >= 0.995, penalty


def test_no_objective_is_above_that_of_scikit_learns_default():
    """Over the whole grid of the sweep; `objective` and `excess` say what float64 says."""
    features, labels = problem(500, 24, 5)
    grid = np.logspace(-6, 6, 97)
    found = logistic.fit(features, labels, grid, classes=5, tol=1e-6)
    assert found.excess.max() <= 1e-6
    for place in range(0, 97, 12):
        ours = objective(features, labels, grid[place], found.weights[place], found.bias[place])
        wanted = theirs(features, labels, grid[place], tol=1e-4)
        assert ours == pytest.approx(found.objective[place], abs=2e-5)  # of large weights in float32
        assert ours <= objective(features, labels, grid[place], wanted.coef_, wanted.intercept_) + 3e-5
    assert found.passes < 8 * len(grid)


def test_penalties_come_back_in_the_order_given():
    features, labels = problem(200, 8, 3)
    found = logistic.fit(features, labels, [10.0, 0.1, 10.0], classes=3)
    assert found.l2.tolist() == [10.0, 0.1, 10.0]
    np.testing.assert_array_equal(found.weights[0], found.weights[2])
    assert np.abs(found.weights[1]).sum() > np.abs(found.weights[0]).sum()


def test_a_class_without_rows_and_constant_features_leave_numbers():
    features, labels = problem(60, 6, 3)
    features[:, 2] = 1.0
    found = logistic.fit(features, labels, [0.1, 1e3], classes=5)
    assert np.isfinite(found.weights).all()
    assert np.isfinite(found.bias).all()
    assert set((features @ found.weights[0].T + found.bias[0]).argmax(axis=1)) <= {0, 1, 2}


@pytest.mark.parametrize("count", [1, 2, 5, 7, 13, 96, 97, 100])
def test_every_penalty_is_solved_once(count):
    order = np.concatenate(logistic.levels(count))
    assert sorted(order.tolist()) == list(range(count))


def test_bad_input_is_refused():
    features, labels = problem(20, 4, 3)
    for change, message in (
        ({"l2": [0.0]}, "positive"),
        ({"l2": []}, "positive"),
        ({"labels": labels[:5]}, "rows"),
        ({"classes": 2}, "2 classes"),
        ({"labels": np.ones((20, 2), bool)}, "3 classes"),
    ):
        given = {"features": features, "labels": labels, "l2": [1.0], "classes": 3} | change
        with pytest.raises(ValueError, match=message):
            logistic.fit(**given)


def test_products_are_right_whatever_the_strides():
    """oneDNN's product does not look at the strides of a bias."""
    rng = torch.Generator().manual_seed(0)
    left, right, bias = (torch.randn(size, generator=rng) for size in ((7, 5), (5, 9), (9, 3)))
    wanted = (left.double() @ right.double() + bias[:, 0].double()).float()
    torch.testing.assert_close(product(left, right.T, bias[:, 0]), wanted)
    torch.testing.assert_close(product(left.T.contiguous().T, right.T.contiguous(), bias[:, 0]), wanted)
    torch.testing.assert_close(product(left.double(), right.T.double(), bias[:, 0].double()).float(), wanted)
