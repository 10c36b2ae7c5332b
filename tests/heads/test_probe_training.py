"""Probes by SGD, all settings as one matrix, held against torch's own Linear, SGD and DataLoader, one setting at a time."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from reactvl.heads import probe
from reactvl.heads.sweep import DECAYS, RATES, choose, search


def problem(rows: int, dim: int, classes: int, several: bool = False, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    means = rng.standard_normal((classes, dim))
    features = means[labels] + 1.5 * rng.standard_normal((rows, dim)) + 0.4
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    head = (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)
    if several:
        labels = (labels[:, None] == np.arange(classes)) | (rng.random((rows, classes)) < 0.1)
    return features, labels, head


def reference(features, labels, head, lr, l2, epochs, seed):
    """A layer over standardised features, trained as ELEVATER's toolkit trains it."""
    x = torch.from_numpy(features)
    x = (x - x.mean(dim=0)) / x.std(dim=0, correction=0)
    y = torch.from_numpy(labels)
    layer = torch.nn.Linear(features.shape[1], len(head))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(head))
        layer.bias.zero_()
    several = y.dtype == torch.bool
    criterion = torch.nn.BCEWithLogitsLoss() if several else torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(layer.parameters(), lr=lr, momentum=0.9, weight_decay=l2)
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True, generator=generator)
    for _ in range(epochs):
        for inputs, wanted in loader:
            optimizer.zero_grad()
            criterion(layer(inputs), wanted.float() if several else wanted).backward()
            optimizer.step()
    with torch.no_grad():
        logits = layer(x)
    return (logits.sigmoid() if several else logits.softmax(dim=1)).numpy()


@pytest.mark.parametrize(("classes", "several"), [(4, False), (40, False), (5, True)])
def test_a_probe_is_the_layer_that_torch_trains(classes, several):
    """Both layouts of scores; the last batch of an epoch is smaller."""
    features, labels, head = problem(150, 16, classes, several)
    for lr, l2 in ((1e-1, 1e-3), (1e-2, 1.0)):
        found = probe.fit(features, labels, classes=classes, head=head, lr=lr, l2=l2, epochs=4, seed=3)
        wanted = reference(features, labels, head, lr, l2, 4, seed=3)
        np.testing.assert_allclose(found.scores(features), wanted, atol=2e-3)
        untrained = reference(features, labels, head, lr, l2, 0, seed=3)
        assert np.abs(wanted - untrained).max() > 0.05


def test_settings_trained_together_are_those_trained_alone():
    features, labels, head = problem(200, 12, 6)
    x, y = torch.from_numpy(features), torch.from_numpy(labels)
    x = probe.Standard.of(x)(x)
    start = probe.initial(head, 6, 12, "cpu")
    settings = [(1e-1, 1e-4), (1e-2, 1.0), (1e-4, 1e2), (1e-1, 1e6)]
    before = start.clone()
    together = probe.train(x, y, start, *zip(*settings, strict=True), epochs=3)
    for place, (lr, l2) in enumerate(settings[:3]):
        torch.testing.assert_close(together[place], probe.train(x, y, start, [lr], [l2], epochs=3)[0])
    assert torch.equal(start, before)
    assert not torch.isfinite(together[3]).all()  # diverged, and the others are none the worse


def test_turns_of_bounded_memory_change_nothing(monkeypatch):
    features, labels, head = problem(100, 8, 3)
    x, y, start = torch.from_numpy(features), torch.from_numpy(labels), probe.initial(head, 3, 8, "cpu")
    x = probe.Standard.of(x)(x)
    whole = probe.train(x, y, start, [0.1, 0.01, 0.001], [0.0, 0.1, 1.0], epochs=2)
    monkeypatch.setattr(probe, "STATE", start.numel() * 16)  # two heads at once
    torch.testing.assert_close(probe.train(x, y, start, [0.1, 0.01, 0.001], [0.0, 0.1, 1.0], epochs=2), whole)


def test_no_learning_leaves_the_language_head():
    """A rate of next to nothing: the scores are those of the zero-shot head over standardised features."""
    features, labels, head = problem(90, 10, 3)
    found = probe.fit(features, labels, classes=3, head=head, lr=1e-12, l2=0.0, epochs=1)
    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    logits = standard @ head.T
    np.testing.assert_allclose(features @ found.weights.T + found.bias, logits, atol=1e-3)


def test_weights_without_bound_are_said():
    features, labels, head = problem(300, 8, 3)
    with pytest.raises(FloatingPointError, match=r"0\.1 and weight decay 1000"):
        probe.fit(features, labels, classes=3, head=head, lr=0.1, l2=1e3, epochs=50)


def test_shapes_that_do_not_fit_are_refused():
    features, labels, head = problem(20, 8, 3)
    for change, message in (
        ({"head": head[:2]}, r"\(3, 8\)"),
        ({"labels": labels + 1}, "below 3"),
        ({"labels": np.ones((20, 4), bool)}, "3 classes"),
        ({"features": features[0]}, "dim"),
    ):
        given = {"features": features, "labels": labels, "head": head} | change
        with pytest.raises(ValueError, match=message):
            probe.fit(**given, classes=3, lr=0.1, l2=0.0)


def one_at_a_time(value) -> tuple[int, int]:
    """The search as ELEVATER's paper and REFERENCE tell it: a rate after the other, a decay after the other."""
    winner, top = None, 0.0
    for rate in range(6):
        peak, score = None, 0.0
        for place in range(0, 97, 16):
            if value(rate, place) > score:
                peak, score = place, value(rate, place)
        for span in (8, 4, 2, 1):
            for place in (max(peak - span, 0), min(peak + span, 96)):
                if value(rate, place) > score:
                    kept, score = place, value(rate, place)
                    moved = kept
                else:
                    moved = None
                if moved is not None:
                    best_of_span = moved
            peak = best_of_span if value(rate, peak) < score else peak
        if score > top:
            winner, top = (rate, peak), score
    return winner


@pytest.mark.parametrize("seed", range(5))
def test_the_search_in_rounds_finds_what_one_trial_after_another_finds(seed):
    rng = np.random.default_rng(seed)
    surface = 1 + rng.random((6, 97)) + np.exp(-np.square((np.arange(97) - rng.integers(0, 97)) / 15))
    asked = []

    def scores(trials):
        asked.extend(trials)
        return [float(surface[trial]) for trial in trials]

    found = search(scores)
    stable = RATES[:, None] * DECAYS < 3.8
    wanted = one_at_a_time(lambda rate, place: surface[rate, place] if stable[rate, place] else 0.0)
    assert (found.lr, found.l2) == (RATES[wanted[0]], DECAYS[wanted[1]])
    assert found.score == surface[wanted]
    assert len(set(asked)) == len(asked) == found.trained <= 90


def test_trials_without_a_score_never_win():
    found = search(lambda trials: [float("nan")] * len(trials))
    assert (found.lr, found.l2) == (1e-6, 1e-6)
    assert np.isnan(found.score)
    found = search(lambda trials: [0.5 if rate == 2 else float("nan") for rate, _ in trials])
    assert found.lr == RATES[2]


def test_the_chosen_setting_does_better_than_the_language_head():
    features, labels, head = problem(500, 16, 4)
    head = head[[1, 0, 2, 3]]  # two classes' names are exchanged

    def judge(wanted, scores):
        return (scores.argmax(axis=1) == wanted).mean()

    parts = {"features": features[:300], "labels": labels[:300]}
    found = choose(
        **parts, val_features=features[300:400], val_labels=labels[300:400], classes=4, head=head, metric=judge
    )
    assert found.score == max(score for _, _, score in found.table if np.isfinite(score))
    assert found.score > 0.7
    made = probe.fit(features[:400], labels[:400], classes=4, head=head, lr=found.lr, l2=found.l2)
    assert judge(labels[400:], made.scores(features[400:])) > 0.7
    assert judge(labels[400:], features[400:] @ head.T) < 0.6
