"""The paired test is McNemar's on single images, right about chance for every metric, and sees a difference."""

import numpy as np
import pytest
from scipy import stats

from reactvl.heads.intervals import Paired
from reactvl.heads.permutation import paired_test


def odds(scores):
    chance = stats.logistic.cdf(scores)
    return np.stack([1 - chance, chance], axis=1)


@pytest.mark.parametrize("gain", [0.0, 0.03, 0.06])
def test_of_single_images_it_is_mcnemars_exact_test(gain):
    rng = np.random.default_rng(3)
    a = rng.random(400) < 0.6
    b = np.where(rng.random(400) < 0.2 + gain, rng.random(400) < 0.7, a)
    found = paired_test([(a, b, np.arange(400))])
    expected = stats.binomtest(int((b & ~a).sum()), int((a != b).sum())).pvalue
    assert found.p == pytest.approx(expected, abs=0.015)
    assert found.difference == pytest.approx(b.mean() - a.mean())


def test_of_few_classes_it_is_the_enumeration_of_all_swaps():
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(8), 12)
    a, b = rng.random(96) < 0.4, rng.random(96) < 0.6
    sums = np.array([(b[clusters == c].astype(int) - a[clusters == c]).sum() for c in range(8)])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 8)).reshape(8, -1)
    expected = (np.abs(sums @ signs) >= abs(sums.sum())).mean()
    for per in ("image", "class"):  # classes of equal size
        assert paired_test([(a, b, clusters)], per=per).p == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("metric", ["accuracy", "roc_auc", "11point_mAP"])
def test_equally_good_models_differ_by_chance_alone(metric):
    """p is uniform: below 0.05 one time in 20. The second model's scale of confidence is another."""
    rng, found = np.random.default_rng(2), []
    for run in range(200):
        labels = rng.integers(0, 2, 100)
        shared = labels + rng.normal(size=100)
        a, b = (odds(factor * (shared + rng.normal(size=100)) + shift) for factor, shift in ((1, 0), (5, 2)))
        if metric == "11point_mAP":
            task = Paired(metric, labels[:, None] == np.arange(2), a, b)
        elif metric == "accuracy":
            right = [
                (scores[:, 1] > threshold) == labels for scores, threshold in ((a, 0.5), (b, stats.logistic.cdf(2)))
            ]
            task = (*right, np.arange(100) // 2)
        else:
            task = Paired(metric, labels, a, b)
        found.append(paired_test([task], swaps=199, seed=run).p)
    found = np.array(found)
    assert (found <= 0.05).mean() < 0.1
    # accuracies are often equal, and then p is 1
    assert (0.25 if metric == "accuracy" else 0.4) < (found <= 0.5).mean() < 0.62


def test_a_better_model_is_seen_and_the_sign_does_not_matter():
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, 500)
    a, b = (odds(labels - 0.5 + level * rng.normal(size=500)) for level in (2.0, 0.7))
    for metric in ("roc_auc", "accuracy"):
        forth = paired_test([Paired(metric, labels, a, b, np.arange(500))])
        back = paired_test([Paired(metric, labels, b, a, np.arange(500))])
        assert forth.p < 0.002 and back.p < 0.002
        assert forth.difference == -back.difference > 0
    assert paired_test([Paired("roc_auc", labels, a, a)]).p == 1


def test_a_mean_over_tasks_gathers_what_each_shows_weakly():
    rng = np.random.default_rng(5)
    tasks = []
    for number in range(12):
        labels = rng.integers(0, 2, 60)
        a, b = (odds(labels - 0.5 + level * rng.normal(size=60)) for level in (1.2, 0.7))
        tasks.append(Paired("roc_auc" if number % 2 else "accuracy", labels, a, b, np.arange(60)))
    together = paired_test(tasks)
    each = [paired_test([task]) for task in tasks]
    assert together.p < min(0.05, np.median([one.p for one in each]))
    assert together.difference == pytest.approx(np.mean([one.difference for one in each]))


def test_bad_input_is_an_error():
    with pytest.raises(ValueError, match="one task"):
        paired_test([])
    with pytest.raises(ValueError, match="one class"):
        paired_test([Paired("roc_auc", np.zeros(3, int), odds(np.zeros(3)), odds(np.zeros(3)))])
    with pytest.raises(ValueError, match="NaN"):
        paired_test([Paired("roc_auc", np.array([0, 1]), odds(np.zeros(2)), np.full((2, 2), np.nan))])
    with pytest.raises(ValueError, match="two classes"):
        paired_test([(np.ones(3), np.ones(3), np.zeros(3))])
