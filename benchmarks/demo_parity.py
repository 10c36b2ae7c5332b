"""Is the fast way as good? The demo's recipe in float32, and with augmentation in batches on the training device, beside the
recipe as it is (bf16 where the machine has it, augmentation by timm in workers); three seeds, both modes.

Judged on the validation style's pictures, with the validation style's shard left out of pool and training. Writes
docs/demo-parity.md. About ten minutes on two cores; a run that was stopped goes on:

    .venv/bin/python benchmarks/demo_parity.py --out out/parity
"""

import argparse
import tomllib
from pathlib import Path

import numpy as np
from demo_controls import DEMO, HERE, SEEDS, correctness, setting

import reactvl as rv
from reactvl.demo import unpack
from reactvl.handles.scores import Scores
from reactvl.heads.intervals import paired_interval_of_mean
from reactvl.recipe import options, read

MODES = ("locked-text", "gated-image")
CONDITIONS = {
    "the recipe": {},
    "--precision fp32 (parity)": {"precision": "fp32"},
    "--augment-on device (parity)": {"augment_on": "device"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/parity"))
    parser.add_argument("--docs", type=Path, default=HERE / "docs" / "demo-parity.md")
    given = parser.parse_args()
    unpack(DEMO)
    recipe = read(DEMO / "recipe.toml")
    base = rv.load(recipe.model)
    parts = tomllib.loads((DEMO / "pool.toml").read_text())
    pool = f"{DEMO}/pool/{parts['part_a']}::{DEMO}/pool/{parts['part_b']}"
    at = setting(given.out / "choosing", base, recipe, pool, parts)
    runs = {}
    for mode in MODES:
        for condition, more in CONDITIONS.items():
            for seed in SEEDS:
                asked = options(recipe.customize[mode]) | more | {"seed": seed}
                out = at.home / "customized" / f"{mode} {condition} seed {seed}".replace(" ", "-").replace("--", "")
                runs[mode, condition, seed] = rv.customize(
                    base, at.pairs["retrieved"], out=out, view_cache=given.out / "views", **asked
                )
    scores = rv.evaluate([base, *runs.values()], data=DEMO / "tasks", split="val", out=at.home / "evaluation")
    text = table(scores, list(runs))
    print(text)
    given.docs.write_text(text)


def table(scores: Scores, runs: list[tuple[str, str, int]]) -> str:
    """The page for docs: the mean over tasks by mode and option, and how far it is from the recipe's."""
    correct, classes = correctness(scores)

    def of(mode: str, condition: str) -> list[np.ndarray]:
        """Correctness (images,) of every task, the mean over the seeds."""
        rows = [1 + number for number, run in enumerate(runs) if run[:2] == (mode, condition)]
        return [task[rows].mean(axis=0) for task in correct]

    def spread(mode: str, condition: str) -> str:
        rows = [1 + number for number, run in enumerate(runs) if run[:2] == (mode, condition)]
        means = [np.mean([task[row].mean() for task in correct]) for row in rows]
        return f"{100 * np.mean(means):.1f} ± {100 * np.std(means, ddof=1):.1f}"

    lines = [
        "# The fast way beside the exact one, on the demo",
        "",
        "Printed by `.venv/bin/python benchmarks/demo_parity.py --out out/parity` (what each row is stands in that file).",
        f"Zero-shot accuracy in percent on the {sum(len(c) for c in classes):,} drawings of the validation style; the base has "
        f"{100 * np.mean([task[0].mean() for task in correct]):.1f}. Mean over tasks,",
        "three seeds (± standard deviation); in points over the recipe alone, with 95% paired bootstrap intervals clustered by class.",
        "",
        "| | locked-text | over the recipe | gated-image | over the recipe |",
        "|---|---|---|---|---|",
    ]
    for condition in CONDITIONS:
        cells = []
        for mode in MODES:
            cells.append(spread(mode, condition))
            if condition == "the recipe":
                cells.append("")
                continue
            tasks = list(zip(of(mode, "the recipe"), of(mode, condition), classes, strict=True))
            found = paired_interval_of_mean(tasks)
            cells.append(f"{100 * found.difference:+.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]")
        lines.append(f"| {condition} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
