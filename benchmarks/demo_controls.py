"""Does retrieval matter, or only more training? The demo's gains beside three controls, three seeds, both modes.

    retrieved   the demo itself: pairs retrieved for the classes from the whole pool
    random      the same training on as many random pairs of the pool
    whole pool  the same number of steps on all pairs of the pool
    part A      the same training on pairs retrieved from part A, which the base model was trained on: focus without new data

Beside them stand the label-free baselines of `reactvl evaluate`: what the base reaches with the retrieved pairs, uncustomized.

Every condition's learning rate is chosen in the same way: on the validation style's pictures, with the validation style's shard
left out of pool and training. Then every condition is trained from the whole pool with three seeds and evaluated once on
the held-out styles. Writes docs/demo.md. About half an hour on two cores; a run that was stopped goes on:

    .venv/bin/python benchmarks/demo_controls.py --out out/controls
"""

import argparse
import dataclasses
import tomllib
from pathlib import Path

import numpy as np

import reactvl as rv
from reactvl.demo import unpack
from reactvl.handles.scores import Scores
from reactvl.heads.intervals import paired_interval_of_mean
from reactvl.recipe import options, read

HERE = Path(__file__).parents[1]
DEMO = HERE / "demo"
SEEDS = (0, 1, 2)
RATES = {"locked-text": (2e-4, 5e-4, 1e-3), "gated-image": (5e-4, 1e-3, 2e-3)}
CONDITIONS = ("retrieved", "random", "whole pool", "part A")
Tried = dict[tuple[str, str, float], float]  # (mode, condition, learning rate) -> mean accuracy


@dataclasses.dataclass
class Setting:
    """A pool with what was retrieved from it, and from part A alone."""

    home: Path
    embeddings: rv.Embeddings
    pairs: dict[str, rv.Pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/controls"))
    parser.add_argument("--docs", type=Path, default=HERE / "docs" / "demo.md")
    given = parser.parse_args()
    unpack(DEMO)
    recipe = read(DEMO / "recipe.toml")
    base = rv.load(recipe.model)
    parts = tomllib.loads((DEMO / "pool.toml").read_text())
    without_validation = f"{DEMO}/pool/{parts['part_a']}::{DEMO}/pool/{parts['part_b']}"
    views = given.out / "views"

    choosing = setting(given.out / "choosing", base, recipe, without_validation, parts)
    before, tried = tried_rates(choosing, base, recipe, views)
    final = setting(given.out / "final", base, recipe, recipe.pool, parts)
    runs = {
        (mode, condition, seed): trained(
            final, base, recipe, mode, condition, best_rate(tried, mode, condition), seed, views
        )
        for mode in RATES
        for condition in CONDITIONS
        for seed in SEEDS
    }
    scores = rv.evaluate([base, *runs.values()], data=DEMO / "tasks", out=given.out / "final" / "evaluation")
    text = table(scores, list(runs), final) + rates_table(before, tried)
    print(text)
    given.docs.parent.mkdir(exist_ok=True)
    given.docs.write_text(text)


def setting(home: Path, base: rv.Model, recipe, pool: str, parts: dict) -> Setting:
    """Embed a pool and part A, and retrieve from both as the recipe does."""
    embeddings = rv.embed(pool, base, out=home / "embeddings")
    part_a = rv.embed(f"{DEMO}/pool/{parts['part_a']}", base, out=home.parent / "part-a" / "embeddings")
    asked = options(recipe.retrieve)
    pairs = {
        "retrieved": rv.retrieve(embeddings, out=home / "retrieved", **asked),
        "part A": rv.retrieve(part_a, out=home.parent / "part-a" / "retrieved", **asked),
    }
    return Setting(home, embeddings, pairs)


def trained(
    at: Setting, base: rv.Model, recipe, mode: str, condition: str, lr: float, seed: int, views: Path
) -> rv.Model:
    """One customization, as the recipe has it but for the pairs, the learning rate and the seed."""
    asked = options(recipe.customize[mode]) | {"lr": lr, "seed": seed}
    if condition == "random":
        asked["draw"] = len(at.pairs["retrieved"])
    source = at.pairs.get(condition, at.embeddings)
    name = f"{mode} {condition} lr {lr:g} seed {seed}".replace(" ", "-")
    return rv.customize(base, source, out=at.home / "customized" / name, view_cache=views, **asked)


def tried_rates(at: Setting, base: rv.Model, recipe, views: Path) -> tuple[float, Tried]:
    """Mean accuracy on the validation style of the base, and of every mode, condition and learning rate."""
    asked = [(mode, condition, lr) for mode, rates in RATES.items() for condition in CONDITIONS for lr in rates]
    models = [trained(at, base, recipe, mode, condition, lr, 0, views) for mode, condition, lr in asked]
    scores = rv.evaluate([base, *models], data=DEMO / "tasks", split="val", out=at.home / "evaluation", baselines=False)
    before, *means = values(scores)
    return before, dict(zip(asked, means, strict=True))


def best_rate(tried: Tried, mode: str, condition: str) -> float:
    """The learning rate that does best on the validation style."""
    return max(RATES[mode], key=lambda lr: tried[mode, condition, lr])


def values(scores: Scores) -> list[float]:
    """The mean score over tasks of each model."""
    results = scores.results
    return [results["mean"][model["label"]]["value"] for model in results["models"]]


def baselines(scores: Scores) -> list[str]:
    """The label-free baselines of an evaluation, but for the base itself."""
    return [column["label"] for column in scores.results["columns"] if column["method"] != "zero-shot"]


def correctness(scores: Scores) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """For each task: correct (models and then baselines, images) and the class of each image."""
    labels = [model["label"] for model in scores.results["models"]] + baselines(scores)
    correct, classes = [], []
    for task in scores.results["tasks"]:
        rows = scores.predictions(task["name"])
        model, hit, label = (np.array(rows[name].to_pylist()) for name in ("model", "correct", "label"))
        correct.append(np.stack([hit[model == each] for each in labels]).astype(float))
        classes.append(label[model == labels[0]])
    return correct, classes


def table(scores: Scores, runs: list[tuple[str, str, int]], final: Setting) -> str:
    """The page for docs: means, gains over base, and of the demo over each control, with intervals."""
    correct, classes = correctness(scores)
    base = [task[0] for task in correct]

    def of(mode: str, condition: str) -> list[np.ndarray]:
        """Correctness (images,) of every task, the mean over the seeds."""
        rows = [1 + number for number, run in enumerate(runs) if run[:2] == (mode, condition)]
        return [task[rows].mean(axis=0) for task in correct]

    def spread(mode: str, condition: str) -> str:
        means = [
            np.mean([task[1 + number].mean() for task in correct])
            for number, run in enumerate(runs)
            if run[:2] == (mode, condition)
        ]
        return f"{100 * np.mean(means):.1f} ± {100 * np.std(means, ddof=1):.1f}"

    def interval(before: list[np.ndarray], after: list[np.ndarray]) -> str:
        found = paired_interval_of_mean(list(zip(before, after, classes, strict=True)))
        verdict = "" if found.low > 0 else " — not above 0"
        return f"{100 * found.difference:+.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]{verdict}"

    names = [task["name"] for task in scores.results["tasks"]]
    lines = [
        "# The demo and its controls",
        "",
        "Printed by `.venv/bin/python benchmarks/demo_controls.py --out out/controls` (what each row is stands in that file).",
        f"Zero-shot accuracy in percent on {sum(len(c) for c in classes):,} drawings of three styles that no picture of the pool has;",
        f"{len(final.pairs['retrieved']):,} pairs retrieved of {len(final.embeddings):,}; three seeds (mean ± standard deviation).",
        "Gains are of the mean over tasks, in points, with 95% paired bootstrap intervals clustered by class, on seed means.",
        "",
        f"| model | {' | '.join(names)} | mean | over base | the demo over it |",
        f"|---|{'---|' * (len(names) + 3)}",
        f"| base | {' | '.join(f'{100 * task.mean():.1f}' for task in base)} | {100 * np.mean([t.mean() for t in base]):.1f} | | |",
    ]
    for mode in RATES:
        for condition in CONDITIONS:
            mine = of(mode, condition)
            cells = [f"{100 * task.mean():.1f}" for task in mine]
            over = "" if condition == "retrieved" else interval(mine, of(mode, "retrieved"))
            label = f"**{mode}, {condition}**" if condition == "retrieved" else f"{mode}, {condition}"
            lines.append(
                f"| {label} | {' | '.join(cells)} | {spread(mode, condition)} | {interval(base, mine)} | {over} |"
            )
    for number, label in enumerate(baselines(scores)):
        mine = [task[1 + len(runs) + number] for task in correct]
        cells = [f"{100 * task.mean():.1f}" for task in mine]
        over = "; ".join(f"{mode} {interval(mine, of(mode, 'retrieved'))}" for mode in RATES)
        mean = f"{100 * np.mean([task.mean() for task in mine]):.1f}"
        lines.append(f"| base with {label} | {' | '.join(cells)} | {mean} | {interval(base, mine)} | {over} |")
    return "\n".join([*lines, "", ""])


def rates_table(before: float, tried: Tried) -> str:
    """How the learning rates were chosen."""
    lines = [
        "## Learning rates",
        "",
        "Each condition's was chosen on the validation style (noto), whose shard was left out of the pool for it. Mean accuracy",
        f"there by learning rate, one seed, the best in bold; the base has {100 * before:.1f}:",
        "",
        f"| mode | {' | '.join(CONDITIONS)} |",
        f"|---|{'---|' * len(CONDITIONS)}",
    ]
    for mode, rates in RATES.items():
        cells = []
        for condition in CONDITIONS:
            best = best_rate(tried, mode, condition)
            shown = [f"{lr:g}: {100 * tried[mode, condition, lr]:.1f}" for lr in rates]
            cells.append(
                ", ".join(f"**{text}**" if lr == best else text for lr, text in zip(rates, shown, strict=True))
            )
        lines.append(f"| {mode} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
