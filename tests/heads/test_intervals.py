"""Intervals cover, are paired, see clusters, and repeat."""

import time

import numpy as np
import pytest

from reactvl.heads.intervals import paired_interval, paired_interval_of_mean


def simulated(rng, classes=50, per_class=8, gain=0.1, spread=0.3):
    """Two models whose accuracy on a class rises and falls together, and gains `gain` on average over classes."""
    level = np.clip(rng.normal(0.5, 0.25, classes), 0, 1)
    better = np.clip(level + rng.normal(gain, spread, classes), 0, 1)
    clusters = np.repeat(np.arange(classes), per_class)
    a = rng.random(len(clusters)) < level[clusters]
    b = rng.random(len(clusters)) < better[clusters]
    return a, b, clusters


def true_gain(**options):
    """The mean gain over very many classes of the simulation, clipping included."""
    a, b, _ = simulated(np.random.default_rng(99), classes=400_000, per_class=1, **options)
    return b.mean() - a.mean()


@pytest.mark.parametrize("classes", [8, 50])
def test_95_percent_intervals_cover_the_truth_about_95_times_in_100(classes):
    rng, truth, runs = np.random.default_rng(classes), true_gain(), 600
    hits = 0
    for run in range(runs):
        interval = paired_interval(*simulated(rng, classes=classes), resamples=1000, seed=run)
        hits += interval.low <= truth <= interval.high
    assert 0.925 <= hits / runs <= 0.98, hits / runs


def test_the_mean_over_tasks_covers_too():
    rng, truth, runs = np.random.default_rng(5), (true_gain() + true_gain(gain=0.3)) / 2, 500
    hits = 0
    for run in range(runs):
        tasks = [simulated(rng, classes=10), simulated(rng, classes=30, gain=0.3)]
        interval = paired_interval_of_mean(tasks, resamples=1000, seed=run)
        hits += interval.low <= truth <= interval.high
    assert 0.915 <= hits / runs <= 0.985, hits / runs


def test_pairing_removes_what_the_models_share():
    rng = np.random.default_rng(0)
    hard = rng.random(1000) < 0.5
    b = hard.copy()
    b[np.flatnonzero(~hard)[:30]] = True  # the same answers but for 30 more right
    clusters = rng.integers(0, 50, 1000)
    paired = paired_interval(hard, b, clusters)
    assert paired.low > 0 and paired.difference == pytest.approx(0.03)
    shuffled = rng.permutation(1000)
    unpaired = paired_interval(hard[shuffled], b, clusters)
    assert unpaired.high - unpaired.low > 3 * (paired.high - paired.low)


def test_the_same_model_twice_differs_by_nothing():
    a, _, clusters = simulated(np.random.default_rng(1))
    assert (lambda i: (i.low, i.high, i.difference))(paired_interval(a, a, clusters)) == (0, 0, 0)


def test_swapping_the_models_turns_the_sign():
    a, b, clusters = simulated(np.random.default_rng(2))
    forth, back = paired_interval(a, b, clusters), paired_interval(b, a, clusters)
    assert forth.difference == -back.difference == pytest.approx(b.mean() - a.mean())
    assert forth.low == pytest.approx(-back.high) and forth.high == pytest.approx(-back.low)


def test_images_that_move_with_their_class_widen_the_interval():
    rng = np.random.default_rng(3)
    clusters = np.repeat(np.arange(40), 25)
    a = np.zeros(1000)
    by_class = np.repeat(rng.random(40) < 0.5, 25)
    by_image = rng.permutation(by_class)
    wide, narrow = paired_interval(a, by_class, clusters), paired_interval(a, by_image, clusters)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_per_class_is_the_difference_of_mean_per_class_accuracies():
    rng = np.random.default_rng(4)
    clusters = np.repeat(np.arange(10), np.arange(1, 11))
    a, b = rng.random(55) < 0.4, rng.random(55) < 0.6
    expected = np.mean([b[clusters == c].mean() - a[clusters == c].mean() for c in range(10)])
    assert paired_interval(a, b, clusters, per="class").difference == pytest.approx(expected)


def test_one_task_is_its_own_mean_and_tasks_weigh_the_same():
    rng = np.random.default_rng(5)
    small, large = simulated(rng, classes=5, per_class=2), simulated(rng, classes=60, per_class=20, gain=0.3)
    assert paired_interval_of_mean([small]) == paired_interval(*small)
    each = [paired_interval(*task).difference for task in (small, large)]
    assert paired_interval_of_mean([small, large]).difference == pytest.approx(np.mean(each))


def test_correctness_averaged_over_seeds_is_taken():
    rng = np.random.default_rng(6)
    a, b, clusters = simulated(rng)
    seeds = np.mean([b, rng.permutation(b), b], axis=0)
    assert paired_interval(a, seeds, clusters).difference == pytest.approx(seeds.mean() - a.mean())


def test_class_names_serve_as_clusters_and_the_seed_decides():
    a, b, clusters = simulated(np.random.default_rng(7))
    names = np.array([f"class {cluster:02d}" for cluster in clusters])
    assert paired_interval(a, b, names) == paired_interval(a, b, clusters)
    assert paired_interval(a, b, clusters, seed=1) != paired_interval(a, b, clusters)


def test_a_benchmark_of_a_thousand_classes_takes_seconds_at_most():
    a, b, clusters = simulated(np.random.default_rng(8), classes=1000, per_class=50)
    began = time.monotonic()
    paired_interval(a, b, clusters)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("a", "b", "clusters", "message"),
    [
        ([1, 0], [1], [0, 1], "shapes"),
        ([1, 0], [1, 0], [0], "shapes"),
        ([1, 0], [1, 2], [0, 1], r"\[0, 1\]"),
        ([1, 0], [1, float("nan")], [0, 1], r"\[0, 1\]"),
        ([1, 0], [1, 0], [0, 0], "two classes"),
        ([], [], [], "two classes"),
    ],
)
def test_bad_input_is_an_error(a, b, clusters, message):
    with pytest.raises(ValueError, match=message):
        paired_interval(np.array(a, float), np.array(b, float), np.array(clusters))


def test_no_task_and_a_bad_level_are_errors():
    with pytest.raises(ValueError, match="one task"):
        paired_interval_of_mean([])
    with pytest.raises(ValueError, match="level"):
        paired_interval(*simulated(np.random.default_rng(0)), level=95)
