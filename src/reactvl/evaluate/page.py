"""The report of an evaluation."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from reactvl.evaluate.candidates import Candidate
from reactvl.evaluate.results import Scored
from reactvl.handles.scores import column, gain_text
from reactvl.heads.metrics import confusions
from reactvl.report import plots
from reactvl.report.page import Page, data_table, fold, gallery, tiles
from reactvl.report.thumbnails import thumbnail

CONFUSED, PICTURES = 6, 6  # confusions a task, pictures a confusion
MENDED = 12  # pictures a task that the base missed and another model finds
LISTED = 100  # skipped images


def write(
    path: Path,
    results: dict[str, Any],
    scored: Sequence[Scored],
    compared: Sequence[Candidate],
    seconds: dict[str, float],
) -> None:
    """Write `report.html`: scores, gains, learning curves, classes, confusions with pictures, time, models."""
    labels = [model["label"] for model in results["models"]]
    images, skipped = sum(len(one.rows) for one in scored), sum(len(one.skipped) for one in scored)
    many = f"{len(labels)} models" if len(labels) > 1 else labels[0]
    page = Page(
        f"Evaluation of {many}",
        f"zero-shot on {images:,} images of {len(scored)} task{'s' if len(scored) != 1 else ''}, "
        f"split {results['split']}, templates: {results['templates']}"
        + (f"; {skipped:,} images could not be used" if skipped else ""),
    )
    page.section("Scores", scores(results, labels), intro=score_note(results))
    if len(labels) > 1:
        page.section(
            "Gains",
            gains(results, labels),
            intro="Points over the first model. An interval that does not reach 0 is a difference beyond chance.",
        )
    curves = learning(compared)
    if curves:
        page.section("Learning curves", curves, intro="Of the customized models, from their metrics.jsonl.")
    if len(labels) > 1:
        page.section(
            "Classes", classes(results, labels), intro="How much more of each class is found than by the first model."
        )
        if mended := found_now(scored, labels[0], best(results, labels)):
            page.section(
                "Found now", mended, intro=f"Pictures that {labels[0]} misses and {best(results, labels)} finds."
            )
    who = best(results, labels)
    page.section(
        "Confusions", confused(scored, who), intro=f"What {who} still confuses most, the likeliest wrong first."
    )
    if any(seconds.values()):
        page.section("Where time went", plots.time_bar(seconds))
    if skipped:
        page.section("Skipped images", skipped_table(scored))
    page.section("Models and tasks", about(results))
    page.write(path)


def scores(results: dict[str, Any], labels: Sequence[str]) -> Markup:
    every = [(task["name"], task["scores"]) for task in results["tasks"]]
    foot = 1 if len(every) > 1 else 0
    every += [("mean", results["mean"])] if foot else []
    rows = [(name, [100 * found[label]["value"] for label in labels]) for name, found in every]
    notes = {
        (row, at): gain_text(found[label].get("gain"))
        for row, (_, found) in enumerate(every)
        for at, label in enumerate(labels)
        if found[label].get("gain")
    }
    heads = [column(label, number) for number, label in enumerate(labels)]
    facts = [(head, f"{100 * results['mean'][label]['value']:.1f}") for head, label in zip(heads, labels, strict=True)]
    return (tiles(facts) if len(labels) <= 6 else Markup("")) + plots.score_table(rows, heads, notes, foot=foot)


def score_note(results: dict[str, Any]) -> str:
    metrics = sorted({task["metric"] for task in results["tasks"]})
    note = f"{' or '.join(metrics).capitalize()}, percent; large figures are means over the tasks."
    if len(results["models"]) > 1:
        level = f"{100 * results['level']:.0f}%"
        note += f" Small: the gain over the first model with its {level} paired bootstrap interval, clustered by class."
    return note


def gains(results: dict[str, Any], labels: Sequence[str]) -> Markup:
    every = [(task["name"], task["scores"]) for task in results["tasks"]]
    every += [("mean", results["mean"])] if len(every) > 1 else []
    series = {label: [points(found[label]["gain"]) for _, found in every] for label in labels[1:]}
    return plots.gains_with_intervals([name for name, _ in every], series)


def points(gain: dict[str, float | None]) -> tuple[float, float, float]:
    """(low, high, difference) in points; without an interval the dot alone."""
    difference = 100 * gain["difference"]
    return (
        (difference, difference, difference)
        if gain["low"] is None
        else (100 * gain["low"], 100 * gain["high"], difference)
    )


def learning(compared: Sequence[Candidate]) -> Markup:
    runs = {model.label: lines(model.metrics) for model in compared if model.metrics}
    return plots.learning_curves({label: rows for label, rows in runs.items() if rows})


def lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; lines that are no JSON object (a run that is being written) are left out."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def best(results: dict[str, Any], labels: Sequence[str]) -> str:
    """The model of the highest mean, the last of equals; of several models not the first, which the others are held
    against."""
    others = labels[1:] or labels
    return max(reversed(others), key=lambda label: results["mean"][label]["value"])


def classes(results: dict[str, Any], labels: Sequence[str]) -> Markup:
    parts = []
    for task in results["tasks"]:
        base = task["scores"][labels[0]]["recalls"]
        for label in labels[1:]:
            recall = task["scores"][label]["recalls"]
            gained = [np.nan if b is None else 100 * (t - b) for b, t in zip(base, recall, strict=True)]
            plot = plots.class_gains(task["classes"], gained, title=f"{task['name']}: {label}")
            parts.append(fold(f"{task['name']}: {label}", plot, is_open=label == best(results, labels)))
    return Markup("").join(parts)


def found_now(scored: Sequence[Scored], base: str, label: str) -> Markup:
    parts = []
    for one in scored:
        before, after, names = one.rankings[base], one.rankings[label], one.task.classes
        at = np.flatnonzero(~one.correct(base) & one.correct(label))
        at = at[np.argsort(-after.probabilities[at, 0], kind="stable")][:MENDED]
        items = [
            (picture(one, place), names[one.labels[place]], f"was: {names[before.predicted[place]]}") for place in at
        ]
        if items:
            parts.append(Markup("<h3>{}</h3>").format(one.task.name) + gallery(items))
    return Markup("").join(parts)


def confused(scored: Sequence[Scored], label: str) -> Markup:
    parts = []
    for one in scored:
        rows = []
        ranking, names = one.rankings[label], one.task.classes
        counts = confusions(one.labels, ranking.predicted, len(names))
        np.fill_diagonal(counts, 0)
        for flat in np.argsort(-counts, axis=None, kind="stable")[:CONFUSED]:
            true, taken = divmod(int(flat), len(names))
            if not counts[true, taken]:
                break
            at = np.flatnonzero((one.labels == true) & (ranking.predicted == taken))
            at = at[np.argsort(-ranking.probabilities[at, 0], kind="stable")][:PICTURES]
            pictures = [(picture(one, place), f"{100 * ranking.probabilities[place, 0]:.0f}% sure") for place in at]
            rows.append((names[true], names[taken], int(counts[true, taken]), pictures))
        body = plots.confusion_examples(rows) if rows else Markup("<p>none</p>")
        parts.append(fold(one.task.name, body, is_open=one is scored[0]))
    return Markup("").join(parts)


def picture(one: Scored, place: int) -> str:
    return thumbnail(one.samples.read(int(one.rows[place])))


def skipped_table(scored: Sequence[Scored]) -> Markup:
    rows = [(one.task.name, name, reason) for one in scored for name, reason in one.skipped]
    more = (
        Markup("<p>and {} more, in skipped.parquet</p>").format(len(rows) - LISTED)
        if len(rows) > LISTED
        else Markup("")
    )
    return data_table(["task", "image", "reason"], rows[:LISTED]) + more


def about(results: dict[str, Any]) -> Markup:
    models = [
        (model["label"], model["name"], model["parameters"], model["image_size"], model["dim"], model["sha256"][:12])
        for model in results["models"]
    ]
    tasks = [
        (task["name"], task["metric"], len(task["classes"]), task["images"], task["skipped"], len(task["templates"]))
        for task in results["tasks"]
    ]
    return data_table(["model", "name", "parameters", "pixels", "width", "sha256"], models) + data_table(
        ["task", "metric", "classes", "images", "skipped", "templates"], tasks
    )
