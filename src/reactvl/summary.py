"""The report of a whole run, one page: the table, what was retrieved, how training went, per-class gains, where time went."""

import itertools
import json
from pathlib import Path

import numpy as np
from markupsafe import Markup

from reactvl.evaluate import page as evaluation
from reactvl.evaluate import score_tables
from reactvl.handles.pairs import Pairs
from reactvl.handles.scores import Scores
from reactvl.manifest import read_manifest
from reactvl.report import plots
from reactvl.report.page import Page, code, data_table, gallery
from reactvl.report.thumbnails import thumbnail

PICTURES, SIDE = 6, 72  # a class


def write_summary(run: Path) -> None:
    """Write `run/report.html` from the folders of a finished run."""
    scores, pairs = Scores(run / "evaluation"), Pairs(run / "retrieved")
    results = scores.results
    labels = [model["label"] for model in results["models"]]
    page = Page(
        f"{len(pairs.classes):,} classes from {len(pairs.embeddings):,} pairs",
        f"{labels[0]}, customized to class names alone: {len(pairs):,} pairs retrieved, no label used",
    )
    page.section("Scores", score_tables.scores(results), intro=score_tables.intro(results))
    if verdicts := score_tables.verdicts(results):
        page.section("Against label-free baselines", verdicts, intro=score_tables.VERDICTS)
    if len(labels) > 1:
        page.section(
            "Gains",
            score_tables.gains(results),
            intro="Points over the first model. An interval that does not reach 0 is a difference beyond chance.",
        )
    tuned = [Path(model["name"]) / "metrics.jsonl" for model in results["models"][1:]]  # the table's order, and colours
    curves = {path.parent.name: evaluation.lines(path) for path in tuned}
    page.section("Learning curves", plots.learning_curves(curves) + training(tuned))
    if len(labels) > 1:
        page.section(
            "Classes",
            evaluation.classes(results, labels, evaluation.best(results, labels)),
            intro="How much more of each class is found than by the first model.",
        )
    page.section(
        "Retrieved pairs",
        retrieved(pairs),
        intro="Pictures of every class from its best pair to its last, as the pool holds them. retrieved/report.html has more.",
    )
    page.section("Where time went", plots.time_bar(seconds(run)), intro="Seconds a stage, from its last full run.")
    page.section(
        "The recipe",
        code((run / "recipe.toml").read_text()),
        intro="`reactvl run recipe.toml --out run/` does it again.",
    )
    page.write(run / "report.html")


def training(logs: list[Path]) -> Markup:
    """What each customization did, from its manifest."""
    rows = []
    for log in logs:
        manifest = read_manifest(log.parent, "customize")
        facts, counts = manifest.facts, manifest.counts
        rows.append(
            [
                log.parent.name,
                counts["pairs"],
                counts["steps"],
                facts["trained_parameters"],
                f"{facts['lr']:g}",
                f"{facts['widest_gate']:.2f}" if "widest_gate" in facts else "",
            ]
        )
    return data_table(["model", "pairs", "steps", "trained parameters", "learning rate", "widest gate"], rows)


def retrieved(pairs: Pairs) -> Markup:
    """A gallery a class, spread over its ranks."""
    table = pairs.table(["class_id", "score", "TEXT"])
    counts = np.bincount(table["class_id"].to_numpy(), minlength=len(pairs.classes))
    edges = np.concatenate([[0], np.cumsum(counts)])
    texts, scores = table["TEXT"].to_pylist(), table["score"].to_numpy()
    blocks = []
    for name, (start, stop) in zip(pairs.classes, itertools.pairwise(edges.tolist()), strict=True):
        shown = (
            np.unique(np.linspace(start, stop - 1, min(PICTURES, stop - start)).round().astype(int))
            if stop > start
            else []
        )
        items = [(thumbnail(pairs.read_image(int(at)), SIDE), texts[at] or "", f"{scores[at]:.1f}") for at in shown]
        blocks.append(Markup("<h3>{} <small>{}</small></h3>").format(name, f"{stop - start:,} pairs"))
        blocks.append(gallery(items))
    return Markup("").join(blocks)


def seconds(run: Path) -> dict[str, float]:
    """Wall-clock seconds of every stage, by the run's folders."""
    stages = {"embed": "embeddings", "retrieve": "retrieved", "evaluate": "evaluation"}
    folders = {name: run / folder for name, folder in stages.items()}
    folders |= {f"customize {path.name}": path for path in sorted((run / "customized").iterdir()) if path.is_dir()}
    order = sorted(folders, key=lambda name: ["embed", "retrieve", "customize", "evaluate"].index(name.split()[0]))
    timings = {name: folders[name] / "timing.json" for name in order}
    return {name: json.loads(path.read_text())["seconds"] for name, path in timings.items() if path.exists()}
