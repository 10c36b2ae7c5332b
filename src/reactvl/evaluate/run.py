"""One evaluation: models, tasks, features, heads, scores, and the files of the folder."""

import inspect
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from reactvl.evaluate import evaluate, page
from reactvl.evaluate.candidates import Candidate, candidates
from reactvl.evaluate.features import image_features
from reactvl.evaluate.results import Answer, Scored, align, results
from reactvl.handles.scores import PREDICTIONS, REPORT, RESULTS, SKIPPED, Scores
from reactvl.heads.features import Clock
from reactvl.heads.zero_shot import rank, zero_shot_head
from reactvl.manifest import InputId, ReactvlError, Stage, replacing, sha256_json, stage_folder, write_json
from reactvl.models.encoder import Encoder, choose_device, choose_precision
from reactvl.progress import Progress, progress, say
from reactvl.tasks import Samples, Task, find
from reactvl.tasks.templates import read_templates


def run_stage(
    models: Any,
    *,
    data: Path,
    out: Path,
    tasks: list[str] | str | None,
    split: str,
    templates: str | list[str] | None,
    batch_size: int,
    precision: str,
    device: str,
    workers: int | None,
    overwrite: bool,
    **more: Any,
) -> Scores:
    """See `reactvl.evaluate.evaluate`."""
    defaults = inspect.signature(evaluate).parameters
    for name, value in more.items():
        if value != defaults[name].default and name != "baselines" and list(value) != list(defaults[name].default):
            raise ReactvlError(f"evaluate: option {name} is not available in this version")
    if data is None or out is None:
        raise ReactvlError("evaluate: give --data, the folder of the tasks, and --out")
    data, out = Path(data), Path(out)
    if batch_size < 1 or (workers is not None and workers < 1):
        raise ReactvlError(f"batch_size {batch_size}, workers {workers}: must be 1 or more")
    exact = choose_precision(precision, choose_device(device))
    prompts = None if templates is None else read_templates(templates)
    found = find([tasks] if isinstance(tasks, str) else tasks, data)
    splits = {task.name: task.samples(split) for task in found}
    compared = candidates(models)
    options = {
        "models": [model.label for model in compared],
        "tasks": [task.name for task in found],
        "split": split,
        "templates": prompts,
        "batch_size": batch_size,
        "precision": precision,
    }
    inputs = {f"model {number}": InputId(model.id.name, model.id.sha256) for number, model in enumerate(compared)}
    for task in found:
        inputs[f"task {task.name}"] = InputId(os.path.relpath(task.folder, out), task_sha256(task, splits[task.name]))
    with stage_folder(out, "evaluate", options=options, inputs=inputs, overwrite=overwrite) as stage:
        if stage.done:
            say(f"evaluate: {out} is up to date")
        else:
            watch = Watch(exact)
            scored = answer_all(
                stage, compared, found, splits, prompts, split, device=device, precision=exact, batch_size=batch_size,
                threads=workers, watch=watch,
            )  # fmt: skip
            write(stage, scored, compared, split, prompts, watch)
    scores = Scores(out)
    if scores.manifest.counts["skipped"]:
        say(f"evaluate: {scores.manifest.counts['skipped']:,} images skipped; listed in {out / SKIPPED}")
    say(scores.table())
    say(f"evaluate: {scores.manifest.counts['images']:,} images of {len(found)} tasks -> {scores.report}")
    return scores


def task_sha256(task: Task, samples: Samples) -> str:
    return sha256_json([task.classes, task.templates, task.metric, samples.fingerprint])


class Watch:
    """Where the time of a run goes: seconds by what was done, and images that were encoded now."""

    def __init__(self, precision: str):
        self.precision = precision
        self.clock = Clock()
        self.seconds: dict[str, float] = {"loading models": 0.0, "text tower": 0.0, "scoring": 0.0}
        self.encoded = 0

    def parts(self) -> dict[str, float]:
        """Seconds by part, the towers and the wait for data among them."""
        return {"image tower": self.clock.model, "waiting for images": self.clock.data} | self.seconds


def answer_all(
    stage: Stage,
    compared: list[Candidate],
    tasks: list[Task],
    splits: dict[str, Samples],
    prompts: list[str] | None,
    split: str,
    *,
    device: str,
    precision: str,
    batch_size: int,
    threads: int | None,
    watch: Watch,
) -> list[Scored]:
    """Every model's answer to every task, a model at a time, then put on common images."""
    answers: dict[str, dict[str, Answer]] = {task.name: {} for task in tasks}
    heads: dict[tuple[str, str], np.ndarray] = {}
    total = len(compared) * sum(len(samples) for samples in splits.values())
    with progress("evaluating", total, "images") as bar:
        for candidate in compared:
            began = time.monotonic()
            encoder = Encoder(candidate.load(), device=device, precision=precision)
            watch.seconds["loading models"] += time.monotonic() - began
            for task in tasks:
                samples = splits[task.name]
                features = image_features(
                    stage.out, f"{task.name}-{split}", samples, encoder, batch_size=batch_size, threads=threads,
                    clock=watch.clock, advance=advancing(bar, watch),
                )  # fmt: skip
                began = time.monotonic()
                key = (candidate.text_sha256, task.name)
                if key not in heads:
                    heads[key] = zero_shot_head(encoder, task.classes, prompts or task.templates)
                watch.seconds["text tower"] += time.monotonic() - began
                began = time.monotonic()
                answers[task.name][candidate.label] = Answer.of(features, rank(features.vectors, heads[key]))
                watch.seconds["scoring"] += time.monotonic() - began
    return [align(task, prompts or task.templates, splits[task.name], answers[task.name]) for task in tasks]


def advancing(bar: Progress, watch: Watch) -> Callable[[int, bool], None]:
    def advance(count: int, resumed: bool) -> None:
        watch.encoded += 0 if resumed else count
        bar.advance(count, f"waiting for data {watch.clock.waiting:.0%}", resumed=resumed)

    return advance


def write(
    stage: Stage, scored: list[Scored], compared: list[Candidate], split: str, prompts: list[str] | None, watch: Watch
) -> None:
    """The files of the folder: made under `.work`, moved when all of them are whole."""
    began = time.monotonic()
    models = [
        {
            "label": model.label,
            "name": model.id.name,
            "sha256": model.id.sha256,
            "dim": model.id.dim,
            "parameters": model.parameters,
            "image_size": model.image_size,
        }
        for model in compared
    ]
    facts = {"split": split, "templates": "the tasks' own" if prompts is None else "given"}
    found = results(scored, models, facts)
    fresh = stage.work / "files"
    shutil.rmtree(fresh, ignore_errors=True)
    write_json(fresh / RESULTS, found)
    for one in scored:
        write_predictions(fresh / PREDICTIONS / f"{one.task.name}.parquet", one)
    write_skipped(fresh / SKIPPED, scored)
    watch.seconds["scoring"] += time.monotonic() - began
    page.write(fresh / REPORT, found, scored, compared, watch.parts())
    for path in sorted(fresh.iterdir()):
        target = stage.out / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
    stage.timing |= {f"{name.replace(' ', '_')}_seconds": seconds for name, seconds in watch.parts().items()}
    if watch.encoded:
        stage.timing["images_per_second"] = watch.encoded / max(watch.clock.data + watch.clock.model, 1e-9)
    stage.finish(
        counts={
            "images": sum(len(one.rows) for one in scored),
            "skipped": sum(len(one.skipped) for one in scored),
            "models": len(compared),
            "tasks": len(scored),
        },
        facts={"precision": watch.precision},
    )


def write_predictions(path: Path, one: Scored) -> None:
    """One row an image and model, see `Scores.predictions`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names, classes, truth = [one.samples.names[row] for row in one.rows], one.task.classes, one.labels
    tables = []
    for label, ranking in one.rankings.items():
        tables.append(
            pa.table(
                {
                    "image": pa.array(names, pa.string()),
                    "label": pa.array(truth, pa.int32()),
                    "class": pa.array([classes[index] for index in truth], pa.string()),
                    "model": pa.array([label] * len(names), pa.string()),
                    "predicted": pa.array(ranking.predicted, pa.int32()),
                    "predicted_class": pa.array([classes[index] for index in ranking.predicted], pa.string()),
                    "top5": pa.array(list(ranking.classes), pa.list_(pa.int32())),
                    "probability": pa.array(ranking.probabilities[:, 0], pa.float32()),
                    "correct": pa.array(np.asarray(ranking.predicted == truth)),
                }
            )
        )
    with replacing(path) as part:
        pq.write_table(pa.concat_tables(tables), part, compression="zstd")


def write_skipped(path: Path, scored: list[Scored]) -> None:
    """Images that were not scored: task, image, reason."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"task": one.task.name, "image": name, "reason": reason} for one in scored for name, reason in one.skipped]
    schema = pa.schema([("task", pa.string()), ("image", pa.string()), ("reason", pa.string())])
    with replacing(path) as part:
        pq.write_table(pa.Table.from_pylist(rows, schema), part)
