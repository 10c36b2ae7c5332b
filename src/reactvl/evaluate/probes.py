"""Linear probes of a model on a task: few shots and all, several draws, from features that are stored already.

For each number of shots and seed, as ELEVATER does: draw the images, set a fifth of each class apart, choose learning rate
and weight decay on it (`heads.sweep`), train the final head on all images drawn, 50 epochs, and score the test images with
what the last epoch left. The toolkit reports the best of the 50 epochs by the test images' own labels; that is not done here.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from reactvl.heads import few_shot, probe, sweep
from reactvl.tasks import Task

SEARCHED = 10_000  # images a class at most that the search sees, the toolkit's bound for patch-camelyon


@dataclasses.dataclass(frozen=True)
class Probed:
    """Probes of one number of shots: `scores` float32 (seeds, N, C), probabilities of the test images.

    Per seed: the setting chosen, `lr` and `l2`, its score on the validation part (NaN where there was none to score on), and
    the number of training images. `trained` is the number of parameters that were trained.
    """

    shots: str
    seeds: tuple[int, ...]
    scores: np.ndarray
    chosen: list[dict[str, float]]
    trained: int


def probe_task(
    vectors: np.ndarray,
    labels: np.ndarray,
    task: Task,
    test_vectors: np.ndarray,
    head: np.ndarray,
    *,
    shots: Sequence[str | int],
    seeds: Sequence[int],
    device: str = "cpu",
    done: Callable[[str, int], None] | None = None,
) -> dict[str, Probed]:
    """Probes of every number of shots, by the shots' name: "5" ... "all".

    `vectors` float32 (M, dim) and `labels`, int64 (M,) or bool (M, C), are the train split's readable images;
    `test_vectors` (N, dim) those to score; `head` (C, dim) the zero-shot head that training begins at. A seed draws the shots
    and the order of batches. `done(shots, seed)` is told of each probe.
    """
    found = {}
    for name in dict.fromkeys(map(str, shots)):
        scores = np.empty((len(seeds), len(test_vectors), len(task.classes)), np.float32)
        chosen = []
        for place, seed in enumerate(seeds):
            taken = few_shot.rows(labels, name, seed, len(task.classes))
            scores[place], setting = probed(vectors[taken], labels[taken], task, test_vectors, head, seed, device)
            chosen.append(setting)
            if done:
                done(name, seed)
        found[name] = Probed(name, tuple(seeds), scores, chosen, head.size + len(head))
    return found


def probed(
    vectors: np.ndarray,
    labels: np.ndarray,
    task: Task,
    test_vectors: np.ndarray,
    head: np.ndarray,
    seed: int,
    device: str,
) -> tuple[np.ndarray, dict[str, float]]:
    """Scores (N, C) of the probe of some training images, and how it was made."""
    classes = len(task.classes)
    seen = vectors, labels
    if labels.ndim == 1 and np.bincount(labels).max(initial=0) > SEARCHED:
        some = few_shot.rows(labels, SEARCHED, seed, classes)
        seen = vectors[some], labels[some]
    train, judges = few_shot.split(seen[1])
    if len(judges):
        best = sweep.choose(
            seen[0][train], seen[1][train], seen[0][judges], seen[1][judges],
            classes=classes, head=head, metric=task.metric, seed=seed, device=device,
        )  # fmt: skip
        lr, l2, score = best.lr, best.l2, best.score
    else:
        lr, l2, score = float(sweep.RATES[0]), float(sweep.DECAYS[0]), math.nan
    made = probe.fit(vectors, labels, classes=classes, head=head, lr=lr, l2=l2, seed=seed, device=device)
    return made.scores(test_vectors), {"lr": lr, "l2": l2, "validation": score, "images": len(labels)}
