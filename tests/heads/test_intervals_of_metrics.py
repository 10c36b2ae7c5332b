"""Intervals of one model's score, and of metrics that rank images: DeLong's, covering, paired, mixed with accuracies."""

import numpy as np
import pytest
from scipy import stats

from reactvl.heads.intervals import (
    Paired,
    Single,
    clusters_of,
    interval,
    interval_of_mean,
    paired_interval,
    paired_interval_of_mean,
)
from reactvl.heads.metrics import METRICS


def two_models(rng, images=300, noise=(1.0, 0.7)):
    """Labels of two classes and the probabilities of two models that share part of their errors."""
    labels = rng.integers(0, 2, images)
    shared = 1.2 * labels + rng.normal(size=images)
    return labels, *(probabilities(shared + level * rng.normal(size=images)) for level in noise)


def probabilities(scores):
    chance = stats.logistic.cdf(scores)
    return np.stack([1 - chance, chance], axis=1)


def multilabel(rng, images=250, classes=4, noise=(1.0, 0.8)):
    labels = rng.random((images, classes)) < 0.15
    shared = 1.5 * labels + rng.normal(size=labels.shape)
    return labels, *(shared + level * rng.normal(size=labels.shape) for level in noise)


def delong(labels, *scores):
    """Standard error of the ROC area of one model, or of the difference of two (DeLong, DeLong and Clarke-Pearson,
    1988): variances of each positive's and each negative's share of wins."""
    rows, columns = [], []
    for model in scores:
        wins = np.sign(model[labels == 1, 1][:, None] - model[labels == 0, 1][None]) / 2 + 0.5
        rows.append(wins.mean(axis=1))
        columns.append(wins.mean(axis=0))
    by_positive, by_negative = ((some[-1] - some[0]) if len(some) == 2 else some[0] for some in (rows, columns))
    return np.sqrt(by_positive.var(ddof=1) / len(by_positive) + by_negative.var(ddof=1) / len(by_negative))


def test_roc_intervals_are_as_wide_as_delongs():
    labels, a, b = two_models(np.random.default_rng(0), images=1000)
    one, both = (
        interval_of_mean([Single("roc_auc", labels, b)]),
        paired_interval_of_mean([Paired("roc_auc", labels, a, b)]),
    )
    assert one.value == METRICS["roc_auc"](labels, b)
    assert both.difference == METRICS["roc_auc"](labels, b) - METRICS["roc_auc"](labels, a)
    assert one.high - one.low == pytest.approx(2 * 1.96 * delong(labels, b), rel=0.08)
    assert both.high - both.low == pytest.approx(2 * 1.96 * delong(labels, a, b), rel=0.08)
    assert one.low < one.value < one.high and both.low < both.difference < both.high


def test_roc_intervals_cover():
    rng, runs = np.random.default_rng(1), 300
    true_a, true_b = (stats.norm.cdf(1.2 / np.sqrt(2 * (1 + level**2))) for level in (1.0, 0.7))
    hits = [0, 0]
    for run in range(runs):
        labels, a, b = two_models(rng, images=120)
        one = interval_of_mean([Single("roc_auc", labels, a)], resamples=400, seed=run)
        both = paired_interval_of_mean([Paired("roc_auc", labels, a, b)], resamples=400, seed=run)
        hits[0] += one.low <= true_a <= one.high
        hits[1] += both.low <= true_b - true_a <= both.high
    assert all(0.91 <= count / runs <= 0.985 for count in hits), hits


def test_intervals_of_mean_average_precision_cover_what_as_many_images_give():
    rng, runs = np.random.default_rng(2), 100
    metric = METRICS["11point_mAP"]
    values = np.array(
        [(metric(labels, a), metric(labels, b)) for labels, a, b in (multilabel(rng) for _ in range(800))]
    )
    score, gain = values[:, 0].mean(), (values[:, 1] - values[:, 0]).mean()
    hits = [0, 0]
    for run in range(runs):
        labels, a, b = multilabel(rng)
        one = interval_of_mean([Single("11point_mAP", labels, a)], resamples=200, seed=run)
        both = paired_interval_of_mean([Paired("11point_mAP", labels, a, b)], resamples=200, seed=run)
        hits[0] += one.low <= score <= one.high
        hits[1] += both.low <= gain <= both.high
    assert all(0.87 <= count / runs <= 0.995 for count in hits), hits


def test_scores_under_an_accuracy_are_their_correctness():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 12, 400)
    a, b = (rng.random((400, 12)) + level * np.eye(12)[labels] for level in (0.4, 0.6))
    right = [scores.argmax(axis=1) == labels for scores in (a, b)]
    assert paired_interval_of_mean([Paired("accuracy", labels, a, b)]) == paired_interval(*right, labels)
    by_class = paired_interval_of_mean([Paired("mean-per-class", labels, a, b)])
    assert by_class == paired_interval(*right, labels, per="class")
    others = rng.integers(0, 80, 400)
    assert paired_interval_of_mean([Paired("accuracy", labels, a, b, others)]) == paired_interval(*right, others)
    assert interval_of_mean([Single("mean-per-class", labels, b)]) == interval(right[1], labels, per="class")


def test_one_models_interval_covers_and_stays_a_share():
    rng, runs, hits = np.random.default_rng(4), 400, 0
    for run in range(runs):
        level = np.repeat(rng.beta(6, 4, 40), 10)
        found = interval(rng.random(400) < level, np.repeat(np.arange(40), 10), resamples=600, seed=run)
        hits += found.low <= 0.6 <= found.high
    assert 0.915 <= hits / runs <= 0.98, hits / runs
    all_but_one = np.arange(60) > 0
    found = interval(all_but_one, np.arange(60) // 20)
    assert found.value == all_but_one.mean() and found.low < found.value and found.high == 1
    assert (lambda i: (i.low, i.value, i.high))(interval(np.ones(9), np.arange(9) % 3)) == (1, 1, 1)


def test_a_mean_over_tasks_of_all_four_metrics():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 10, 300)
    a, b = (rng.random((300, 10)) + level * np.eye(10)[labels] for level in (0.4, 0.6))
    tasks = [
        (a.argmax(axis=1) == labels, b.argmax(axis=1) == labels, labels),
        Paired("mean-per-class", labels, a, b),
        Paired("roc_auc", *two_models(rng)),
        Paired("11point_mAP", *multilabel(rng)),
    ]
    found = paired_interval_of_mean(tasks, resamples=3000)
    each = [paired_interval_of_mean([task], resamples=3000) for task in tasks]
    assert found.difference == pytest.approx(np.mean([one.difference for one in each]))
    # variances of independent tasks add
    width = np.sqrt(np.sum([(one.high - one.low) ** 2 for one in each])) / 4
    assert found.high - found.low == pytest.approx(width, rel=0.1)
    assert found == paired_interval_of_mean(tasks, resamples=3000)
    assert found != paired_interval_of_mean(tasks, resamples=3000, seed=1)
    singles = interval_of_mean([(tasks[0][1], labels), Single("roc_auc", tasks[2].labels, tasks[2].scores_b)])
    values = tasks[0][1].mean(), METRICS["roc_auc"](tasks[2].labels, tasks[2].scores_b)
    assert singles.value == pytest.approx(np.mean(values)) and singles.low < singles.value < singles.high


def test_of_two_classes_the_images_are_drawn():
    """A model that leans to the other class gains in one what it loses in the other: that is no noise."""
    rng = np.random.default_rng(8)
    labels = rng.integers(0, 2, 1000)
    a, b = (np.eye(2)[(rng.random(1000) < 0.6 + lean * (labels - 0.5)).astype(int)] for lean in (0.4, 0.5))
    found = paired_interval_of_mean([Paired("accuracy", labels, a, b)])
    change = (b.argmax(axis=1) == labels).astype(float) - (a.argmax(axis=1) == labels)
    assert found.high - found.low == pytest.approx(2 * 1.96 * change.std() / np.sqrt(1000), rel=0.05)
    assert clusters_of(labels).tolist() == clusters_of(np.eye(1000, dtype=bool)).tolist() == list(range(1000))
    many = np.arange(1000) % 8
    assert clusters_of(many) is many
    one = paired_interval_of_mean([Paired("accuracy", np.zeros(50, int), a[:50], b[:50])])
    assert one.low <= one.difference <= one.high


@pytest.mark.parametrize(("metric", "made"), [("roc_auc", two_models), ("11point_mAP", multilabel)])
def test_pairing_signs_and_the_same_model_twice(metric, made):
    labels, a, b = made(np.random.default_rng(6))
    forth, back = (paired_interval_of_mean([Paired(metric, labels, *models)]) for models in ((a, b), (b, a)))
    assert forth.difference == -back.difference
    assert forth.low == pytest.approx(-back.high) and forth.high == pytest.approx(-back.low)
    same = paired_interval_of_mean([Paired(metric, labels, a, a)])
    assert (same.low, same.difference, same.high) == (0, 0, 0)
    alone = [interval_of_mean([Single(metric, labels, scores)]) for scores in (a, b)]
    assert forth.high - forth.low < 0.9 * sum(one.high - one.low for one in alone)


def test_images_that_move_together_widen_a_ranking_metrics_interval():
    rng = np.random.default_rng(7)
    labels, a, _ = two_models(rng, images=200)
    many = [np.repeat(values, 4, axis=0) for values in (labels, a)]
    together = interval_of_mean([Single("roc_auc", *many, clusters=np.repeat(np.arange(200), 4))])
    apart, once = interval_of_mean([Single("roc_auc", *many)]), interval_of_mean([Single("roc_auc", labels, a)])
    assert together.high - together.low == pytest.approx(once.high - once.low, rel=0.1)
    assert apart.high - apart.low == pytest.approx((once.high - once.low) / 2, rel=0.1)


def test_draws_without_a_positive_are_drawn_again():
    labels = np.array([1] + [0] * 30)  # more than a third of the draws have no positive
    odds = probabilities(np.linspace(1, -1, 31))
    found = interval_of_mean([Single("roc_auc", labels, odds)], resamples=500)
    assert found.value == 1 and found.low == found.high == 1


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Paired("roc_auc", np.zeros(4, int), np.full((4, 2), 0.5), np.full((4, 2), 0.5)), "all of one class"),
        (Paired("11point_mAP", np.zeros((4, 2), bool), np.ones((4, 2)), np.ones((4, 2))), "all of one class"),
        (Paired("roc_auc", np.array([0, 1]), np.full((2, 2), 0.5), np.full((2, 2), np.nan)), "NaN"),
        (Paired("roc_auc", np.array([0, 1]), np.full((2, 2), 0.5), np.full((3, 2), 0.5)), "shapes"),
        (Paired("accuracy", np.array([0, 1]), np.full((2, 2), 0.5), np.full((2, 2), np.nan)), "NaN"),
        (Paired("accuracy", np.zeros(1, int), np.ones((1, 2)), np.ones((1, 2))), "two classes"),
        (Paired("mean-per-class", np.zeros(4, int), np.ones((4, 2)), np.ones((4, 2))), "two classes"),
        (Paired("f1", np.array([0, 1]), np.ones((2, 2)), np.ones((2, 2))), "known are accuracy"),
        (Paired("roc_auc", np.array([0, 1]), np.eye(2), np.eye(2), np.array([0, 0])), "two clusters"),
        (Paired("roc_auc", np.array([0, 1]), np.eye(2), np.eye(2), np.array([0, 1, 2])), "two clusters"),
    ],
)
def test_bad_input_is_an_error(task, message):
    with pytest.raises(ValueError, match=message):
        paired_interval_of_mean([task], resamples=50)
