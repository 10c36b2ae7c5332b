"""The probe sweep against scikit-learn's LogisticRegression over the same penalties: rows of benchmarks/evaluate.py.

Alone: `.venv/bin/python benchmarks/probe_rows.py --quick`, or without --quick in about 6 minutes on two cores.

Both fit the grid of ELEVATER's sweep, 97 penalties from 1e-6 to 1e6, on the same features; the penalty is chosen on a
validation part, and the accuracy of the head chosen is taken on a test part. Ours stops 1e-4 nats from the optimum by its
own estimate. scikit-learn fits its penalties one after the other with `max_iter=1000` and the loosest tolerance, from its
default 1e-4 on, at which its accuracy is not more than half a point below: at the default, weak penalties end long before
the optimum. Of them every `every`-th is timed and the sum is scaled up, which is said.
"""

import time
import warnings
from typing import Any

import measuring
import numpy as np

GRID = np.logspace(-6, 6, 97)
SIZES = {  # classes, dim, rows: how far apart the classes are, so that the best penalty lies inside the grid
    (10, 512, 10_000): 0.3,
    (100, 512, 10_000): 0.6,
}
QUICK = {(5, 32, 500): 0.5}
TOLERANCES, EQUAL = (1e-4, 1e-5, 1e-6, 1e-7), 0.005
NOISE = 0.2
HELD = 2_000  # rows that choose, and as many that test


def features(classes: int, dim: int, rows: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Made features (N, dim) float32 of length 10, as CLIP's image tower gives them, and labels int64.

    Gaussian classes; the variance of the axes falls as 1 / rank, and the axes are turned, as image features have them. A
    fifth of the labels are drawn anew, so that the best penalty lies inside the grid.
    """
    rng = np.random.default_rng(seed)
    scale = (1 + np.arange(dim)) ** -0.5
    turn, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
    means = rng.standard_normal((classes, dim)) * scale * spread
    labels = rng.integers(0, classes, rows)
    made = (means[labels] + 2 * rng.standard_normal((rows, dim)) * scale) @ turn
    labels = np.where(rng.random(rows) < NOISE, rng.integers(0, classes, rows), labels)
    return (10 * made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32), labels


def rows(report: measuring.Report, sizes: dict[tuple[int, int, int], float] | None = None, every: int = 1) -> None:
    """Add a row a size: seconds of the whole grid, required 20 times less at the accuracy of the penalty chosen."""
    sizes = sizes or (QUICK if report.given.quick else SIZES)
    for (classes, dim, count), spread in sizes.items():
        x, y = features(classes, dim, count + 2 * HELD, spread)
        parts = [(x[part], y[part]) for part in (slice(count), slice(count, -HELD), slice(-HELD, None))]
        times = report.timed({"ours": lambda at=parts, n=classes: ours(at, n)}, report.given.rounds)
        fast = ours(parts, classes)
        for tolerance in TOLERANCES:
            slow = theirs(parts, every, tolerance)
            if slow["test"] >= fast["test"] - EQUAL:
                break
        label = f"97 penalties, {classes} classes x {dim} x {count:,} rows"
        report.row(
            label, times["ours"], slow["seconds"], against="scikit-learn", need=measuring.times(20),
            also=abs(fast["test"] - slow["test"]) <= EQUAL,
        )  # fmt: skip
        scaled = "" if every == 1 else f", the time of every {every}th of its penalties scaled up"
        report.note(
            f"{label}: test accuracy of the head chosen {fast['test']:.4f} at {fast['l2']:.2g}, scikit-learn's (tol={tolerance:g}) "
            f"{slow['test']:.4f} at {slow['l2']:.2g}{scaled}; mean objective at its penalties "
            f"{fast['objective'][::every].mean():.5f} against {slow['objective']:.5f}"
        )


def ours(parts: list[tuple[np.ndarray, np.ndarray]], classes: int) -> dict[str, Any]:
    from reactvl.heads import logistic

    (x, y), (val_x, val_y), (test_x, test_y) = parts
    found = logistic.fit(x, y, GRID, classes=classes, tol=TOLERANCES[0])
    right = [(predicted(val_x, *head) == val_y).mean() for head in zip(found.weights, found.bias, strict=True)]
    best = int(np.argmax(right))
    test = (predicted(test_x, found.weights[best], found.bias[best]) == test_y).mean()
    return {"test": float(test), "l2": float(GRID[best]), "objective": found.objective}


def theirs(parts: list[tuple[np.ndarray, np.ndarray]], every: int, tolerance: float) -> dict[str, Any]:
    from scipy.special import log_softmax
    from sklearn.linear_model import LogisticRegression

    (x, y), (val_x, val_y), (test_x, test_y) = parts
    seconds, right, test, objective = 0.0, [], [], []
    for l2 in GRID[::every]:
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = LogisticRegression(C=1 / l2, tol=tolerance, max_iter=1000).fit(x, y)
        right.append((model.predict(val_x) == val_y).mean())
        seconds += time.perf_counter() - began
        test.append((model.predict(test_x) == test_y).mean())
        odds = log_softmax(x @ model.coef_.T + model.intercept_, axis=1)[np.arange(len(y)), y]
        objective.append(-odds.mean() + l2 / 2 / len(y) * np.square(model.coef_).sum())
    best = int(np.argmax(right))
    return {
        "seconds": seconds * len(GRID) / len(GRID[::every]),
        "test": float(test[best]),
        "l2": float(GRID[::every][best]),
        "objective": float(np.mean(objective)),
    }


def predicted(x: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return (x @ weights.T + bias).argmax(axis=1)


def main(args: list[str] | None = None) -> int:
    options = measuring.parser(__doc__)
    options.add_argument("--every", type=int, default=1, help="of scikit-learn's penalties, those that are timed")
    given = measuring.parsed(options, {"every": 8}, args)
    report = measuring.Report(
        "probe_sweep", "How long does a linear probe's sweep over penalties take, against scikit-learn's?", given, 6
    )
    rows(report, every=given.every)
    return 0 if report.finish() else 1


if __name__ == "__main__":
    raise SystemExit(main())
