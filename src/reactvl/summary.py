"""The report of a whole run, one page: the table, what was retrieved, how training went, per-class gains, where time went."""

import json
import shlex
from pathlib import Path

import numpy as np
from markupsafe import Markup

from reactvl.evaluate import page as evaluation
from reactvl.evaluate import score_tables
from reactvl.handles.pairs import Pairs
from reactvl.handles.scores import Scores
from reactvl.handles.showing import Drawing, Item, Shelf
from reactvl.manifest import read_manifest
from reactvl.report import plots
from reactvl.report.page import Page, code, data_table, link

PICTURES, SIDE = 6, 72  # a class
MOST = 3_000  # pictures of the page
ROOM = 6_000_000  # bytes of them


def write_summary(run: Path) -> None:
    """Write `run/report.html` from the folders of a finished run."""
    scores, pairs = Scores(run / "evaluation"), Pairs(run / "retrieved")
    results = scores.results
    labels = [model["label"] for model in results["models"]]
    page = Page(
        f"{len(pairs.classes):,} classes from {len(pairs.embeddings):,} pairs",
        f"{labels[0]}, customized to class names alone: {len(pairs):,} pairs retrieved, no label used",
    )
    more = Markup(" Single classes, calibration, confusions: {}.").format(link("evaluation/report.html"))
    page.section("Scores", score_tables.scores(results), intro=Markup("{}").format(score_tables.intro(results)) + more)
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
    what = "Pictures of every class from its best pair to its last, as the pool holds them."
    more = " More of them, duplicates, and what was left out and why: {}."
    page.section(
        "Retrieved pairs",
        retrieved(pairs),
        intro=Markup(what + more).format(link("retrieved/report.html")),
    )
    page.section("Where time went", plots.time_bar(seconds(run)), intro="Seconds a stage, from its last full run.")
    again = code((run / "recipe.toml").read_text(encoding="utf-8"))
    intro = "This file, {}, made all of it. <code>reactvl run recipe.toml --out run/</code> does it again."
    page.section("The recipe", again, intro=Markup(intro).format(link("recipe.toml")))
    page.section(
        "See the rest",
        code(f"reactvl serve {shlex.quote(str(run))}"),
        intro="Every pair, the whole pool to search by words and pictures, and marks for what is wrong, in the browser.",
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
    """A gallery a class, spread over its ranks; of many classes fewer pictures each, and the first classes only. A pool of
    URLs has captions; a picture that cannot be read leaves a tile."""
    table = pairs.table(["class_id", "score", "TEXT", "shard", "offset", "size"])
    edges = np.searchsorted(table["class_id"].to_numpy(), np.arange(len(pairs.classes) + 1)).tolist()
    most = max(1, min(PICTURES, MOST // len(pairs.classes)))
    drawing, blocks = Drawing(ROOM, SIDE), []
    for number, name in enumerate(pairs.classes[:MOST]):
        start, stop = edges[number : number + 2]
        places = np.linspace(start, stop - 1, min(most, stop - start)).round().astype(int) if stop > start else []
        items = [item(pairs, row) for row in table.take(np.unique(places)).to_pylist()] if len(places) else []
        count = f"{stop - start:,} pair{'s' if stop - start != 1 else ''}"
        heading = Markup("<h3>{} <small>{}</small></h3>").format(name, count)
        blocks.append(heading + (drawing.shelf(Shelf("", items)) if items else Markup("")))
        if drawing.room < 0:
            break
    if left := len(pairs.classes) - len(blocks):
        blocks.append(Markup("<p>{} more classes</p>").format(f"{left:,}"))
    return Markup("").join(blocks) + drawing.about_faults()


def item(pairs: Pairs, row: dict) -> Item:
    """A row of pairs.parquet as it is shown."""

    def read() -> bytes:
        return pairs.embeddings.read_bytes(row["shard"], row["offset"], row["size"])

    picture = read if pairs.embeddings.has_pictures else None
    return Item(row["TEXT"] or "", f"{row['score']:.1f}", read=picture)


def seconds(run: Path) -> dict[str, float]:
    """Wall-clock seconds of every stage, by the run's folders."""
    stages = {"embed": "embeddings", "retrieve": "retrieved", "evaluate": "evaluation"}
    folders = {name: run / folder for name, folder in stages.items()}
    folders |= {f"customize {path.name}": path for path in sorted((run / "customized").iterdir()) if path.is_dir()}
    order = sorted(folders, key=lambda name: ["embed", "retrieve", "customize", "evaluate"].index(name.split()[0]))
    timings = {name: folders[name] / "timing.json" for name in order}
    return {name: json.loads(path.read_text())["seconds"] for name, path in timings.items() if path.exists()}
