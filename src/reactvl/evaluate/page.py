"""The report of an evaluation: several models side by side on one page that opens anywhere.

What grows with classes, tasks or models is bounded here: plots of single classes, pictures, rows of lists. The page as a whole
keeps to the limit of `report.page`, which leaves out pictures beyond it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from reactvl.evaluate import examples, score_tables
from reactvl.evaluate.candidates import Candidate
from reactvl.evaluate.results import Scored
from reactvl.report import plots
from reactvl.report.page import Page, data_table, fold, link

ZERO_SHOT = "zero-shot"
PANELS = 24  # reliability diagrams
LINES = 5  # models in one plot
CLASS_PLOTS = 24  # of gains per class
LISTED = 100  # skipped images


def write(
    path: Path,
    results: dict[str, Any],
    scored: Sequence[Scored],
    compared: Sequence[Candidate],
    seconds: dict[str, float],
) -> None:
    """Write `report.html`: scores, verdicts, gains, published figures, calibration, classes and confusions with pictures.

    `results` are those of results.json, `scored` the same tasks in the same order with every image's answers.
    """
    labels = [column["label"] for column in results["columns"] if column["method"] == ZERO_SHOT]
    base, who = labels[0], best(results, labels)
    page = Page(title(labels), subtitle(results, scored))
    if results["tasks"]:
        page.section("Scores", score_tables.scores(results), intro=score_tables.intro(results))
        if verdicts := score_tables.verdicts(results):
            page.section("Against label-free baselines", verdicts, intro=score_tables.VERDICTS)
        if gains := score_tables.gains(results):
            page.section("Gains", gains, intro="An interval that does not reach 0 is a difference beyond chance.")
    if published := score_tables.published(results):
        page.section("Published figures", published, intro="Percent; ~ is read off a plot, to 0.15 points.")
    if results.get("captions"):
        page.section("Image-text retrieval", score_tables.captions(results), intro=score_tables.CAPTIONS)
    if curves := learning(compared):
        page.section("Learning curves", curves, intro="Of the customized models, from their metrics.jsonl.")
    if calibrated := calibration(results, labels):
        page.section("Calibration", calibrated, intro=CALIBRATION)
    if len(labels) > 1:
        if changed := classes(results, labels, who):
            page.section("Classes", changed, intro=f"How much more of each class is found than by {base}.")
        if pictures := examples.changed(scored, base, who):
            page.section("Most changed classes", pictures, intro=f"Pictures of which {base} and {who} differ.")
    if pairs := examples.confused(scored, base, who):
        page.section("Confusions", pairs, intro=f"What {who} still confuses most; the pictures it is surest of first.")
    if any(seconds.values()):
        page.section("Where time went", plots.time_bar(seconds))
    if any(one.skipped for one in scored):
        page.section("Skipped images", skipped_table(scored))
    page.section("Models and tasks", about(results))
    page.write(path)


CALIBRATION = (
    "How often a model is right (up) where it says how sure it is (right): on the diagonal it knows itself, below it it is too "
    "sure. The table has the expected calibration error over 15 bins, in points. Probabilities are those of logits of 100 x cosine."
)


def title(labels: Sequence[str]) -> str:
    return f"Evaluation of {f'{len(labels)} models' if len(labels) > 1 else labels[0]}"


def subtitle(results: dict[str, Any], scored: Sequence[Scored]) -> str:
    images, skipped = sum(len(one.rows) for one in scored), sum(len(one.skipped) for one in scored)
    count = len(results["tasks"])
    return (
        f"{images:,} images of {count} task{'s' if count != 1 else ''}, split {results['split']}, "
        f"templates: {results['templates']}" + (f"; {skipped:,} images could not be used" if skipped else "")
    )


def best(results: dict[str, Any], labels: Sequence[str]) -> str:
    """The model of the highest mean, the last of equals; of several models not the first, which the others are held
    against."""
    others = labels[1:] or labels

    def mean(label: str) -> float:
        value = results["mean"].get(label, {}).get("value")
        return -1.0 if value is None else value

    return max(reversed(others), key=mean)


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


def calibration(results: dict[str, Any], labels: Sequence[str]) -> Markup:
    """Reliability diagrams of the first models, a panel a task, and all models' calibration errors."""
    panels, rows = [], []
    for task in results["tasks"]:
        there = {label: task["scores"][label] for label in labels if label in task["scores"]}
        drawn = {
            label: score["reliability"] for label, score in list(there.items())[:LINES] if score.get("reliability")
        }
        panels += [(task["name"], drawn)] if drawn else []
        errors = [there[label]["ece"] if label in there else None for label in labels]
        rows.append([task["name"], *("" if error is None else f"{100 * error:.1f}" for error in errors)])
    if not panels:
        return Markup("")
    table = data_table(["task", *labels], rows, right=range(1, len(labels) + 1))
    return plots.reliability_diagrams(panels[:PANELS]) + fold("Calibration errors", table, is_open=len(rows) <= 8)


def classes(results: dict[str, Any], labels: Sequence[str], who: str) -> Markup:
    """Gains per class, those of the best model first; of many plots the first `CLASS_PLOTS`."""
    drawn = [
        (task, label)
        for label in sorted(labels[1:], key=lambda label: label != who)
        for task in results["tasks"]
        if all(task["scores"].get(one, {}).get("recalls") for one in (labels[0], label))
    ]
    parts = []
    for task, label in drawn[:CLASS_PLOTS]:
        before, after = (task["scores"][one]["recalls"] for one in (labels[0], label))
        gained = [float("nan") if b is None or a is None else 100 * (a - b) for b, a in zip(before, after, strict=True)]
        plot = plots.class_gains(task["classes"], gained, title=f"{task['name']}: {label}")
        parts.append(fold(f"{task['name']}: {label}", plot, is_open=label == who and len(parts) < 4))
    return Markup("").join(parts)


def skipped_table(scored: Sequence[Scored]) -> Markup:
    rows = [(one.task.name, name, reason) for one in scored for name, reason in one.skipped]
    more = (
        Markup("<p>and {} more, in {}</p>").format(len(rows) - LISTED, link("skipped.parquet"))
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
