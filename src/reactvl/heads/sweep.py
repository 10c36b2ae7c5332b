"""Learning rate and weight decay of a probe, chosen on a validation part: ELEVATER's search, its trials trained in batch.

Six learning rates, 1e-6 to 1e-1. For each, 97 weight decays, 1e-6 to 1e6, of which first the 7 widest apart are tried, then
those 8, 4, 2 and 1 places to the left and right of the best so far: 90 trials at most, in five rounds. The rounds of all
rates are trained together, so that a round is one matrix.

A trial's score is that of its last epoch. (The toolkit takes the best epoch, in its final run on the test images as well: a
rate that diverges later may then win, and the test score chooses its own epoch.) Trials in which the decay alone makes SGD
with momentum diverge are not trained: lr x l2 >= 2 (1 + momentum), Polyak 1964.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch

from reactvl.heads import probe
from reactvl.heads.metrics import METRICS

RATES = np.logspace(-6, -1, 6)
DECAYS = np.logspace(-6, 6, 97)
WIDEST = 16  # places between the first decays
SPANS = (8, 4, 2, 1)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The best setting and its score; `table` holds every trial as (lr, l2, score), in the order of the search, NaN as the
    score of one that diverged. `trained` counts the heads that were trained."""

    lr: float
    l2: float
    score: float
    table: list[tuple[float, float, float]]
    trained: int


def choose(
    features: np.ndarray,
    labels: np.ndarray,
    val_features: np.ndarray,
    val_labels: np.ndarray,
    *,
    classes: int,
    head: np.ndarray | None,
    metric: str | Callable[[np.ndarray, np.ndarray], float],
    epochs: int = probe.EPOCHS,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Chosen:
    """The setting whose probe of `epochs` scores best on the validation part; of equals the lowest rate, then the first tried.

    `features` float32 (N, dim) and `labels` int64 (N,) or bool (N, classes) train, `val_features` and `val_labels` judge;
    `metric` is a name of `metrics.METRICS` or a function of labels and scores. Where no trial gives a score, the lowest rate
    and decay are returned, with a score of NaN.
    """
    judge = METRICS[metric] if isinstance(metric, str) else metric
    x, y = probe.on(features, device), probe.targets(labels, classes, device)
    standard = probe.Standard.of(x)
    x, shown = standard(x), standard(probe.on(val_features, device))
    start, several = probe.initial(head, classes, features.shape[1], device), y.dtype == torch.float32

    def scores(trials: list[tuple[int, int]]) -> list[float]:
        heads = probe.train(
            x, y, start, [RATES[r] for r, _ in trials], [DECAYS[d] for _, d in trials], epochs=epochs, seed=seed
        )
        return [scored(judge, val_labels, shown, one, several) for one in heads]

    return search(scores)


def search(scores: Callable[[list[tuple[int, int]]], list[float]]) -> Chosen:
    """The search itself over places (rate, decay); `scores` gives a round's, NaN for none."""
    table: dict[tuple[int, int], float] = {}
    trained = 0

    def tried(trials: list[tuple[int, int]]) -> None:
        nonlocal trained
        new = [trial for trial in trials if trial not in table]
        stable = [trial for trial in new if RATES[trial[0]] * DECAYS[trial[1]] < 2 * (1 + probe.MOMENTUM)]
        found = dict(zip(stable, scores(stable), strict=True)) if stable else {}
        trained += len(stable)
        table.update({trial: found.get(trial, float("nan")) for trial in new})

    tried([(rate, decay) for rate in range(len(RATES)) for decay in range(0, len(DECAYS), WIDEST)])
    peaks = [best(table, rate, range(0, len(DECAYS), WIDEST), None) for rate in range(len(RATES))]
    for span in SPANS:
        sides = [
            [place for place in (peak - span, peak + span) if 0 <= place < len(DECAYS)] if peak is not None else []
            for peak in peaks
        ]
        tried([(rate, place) for rate, around in enumerate(sides) for place in around])
        peaks = [best(table, rate, around, peaks[rate]) for rate, around in enumerate(sides)]
    winner, score = (0, 0), float("nan")
    for rate, peak in enumerate(peaks):
        if peak is not None and not table[rate, peak] <= score:
            winner, score = (rate, peak), table[rate, peak]
    rows = [(float(RATES[rate]), float(DECAYS[decay]), value) for (rate, decay), value in table.items()]
    return Chosen(float(RATES[winner[0]]), float(DECAYS[winner[1]]), score, rows, trained)


def best(table: dict[tuple[int, int], float], rate: int, places, peak: int | None) -> int | None:
    """The place of the highest score, where one is above the peak's; None where there is no score at all."""
    for place in places:
        value = table[rate, place]
        if np.isfinite(value) and (peak is None or value > table[rate, peak]):
            peak = place
    return peak


def scored(judge: Callable, labels: np.ndarray, shown: torch.Tensor, head: torch.Tensor, several: bool) -> float:
    """A head's score on standardised features, NaN where the metric has none or the weights are not numbers."""
    logits = probe.product(shown, head)
    if not torch.isfinite(logits).all():
        return float("nan")
    try:
        return float(judge(labels, probe.probabilities(logits, several).cpu().numpy()))
    except ValueError:  # a validation part without one of two classes has no ROC AUC
        return float("nan")
