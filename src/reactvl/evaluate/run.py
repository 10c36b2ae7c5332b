"""One evaluation: models, tasks, features, heads, scores, and the files of the folder."""

import dataclasses
import os
import shutil
import time
from pathlib import Path
from typing import Any

from reactvl.evaluate import captions, elevater_files, outputs, page, submission
from reactvl.evaluate.baselines import embedded
from reactvl.evaluate.candidates import Candidate, candidates
from reactvl.evaluate.columns import Column, columns
from reactvl.evaluate.evidence import Evidence, gathered
from reactvl.evaluate.request import Request, checked
from reactvl.evaluate.results import results
from reactvl.evaluate.scoring import Answers, score_task
from reactvl.evaluate.sources import TaskImages, found_once
from reactvl.evaluate.verdicts import verdicts
from reactvl.evaluate.watch import Watch
from reactvl.handles.pairs import Pairs
from reactvl.handles.scores import PREDICTIONS, REPORT, RESULTS, SKIPPED, Scores
from reactvl.manifest import InputId, ReactvlError, Stage, input_id, sha256_json, stage_folder, write_json
from reactvl.progress import say
from reactvl.tasks import CaptionTask, Samples, Task


def run_stage(**given: Any) -> Scores | Path:
    """See `reactvl.evaluate.evaluate`."""
    if given["submission"] is not None:
        return merged(given)
    request = checked(given)
    plan = planned(request)
    with stage_folder(
        request.out, "evaluate", options=plan.options, inputs=plan.inputs, overwrite=request.overwrite
    ) as stage:
        if stage.done:
            say(f"evaluate: {request.out} is up to date")
        else:
            execute(request, plan, stage)
    scores = Scores(request.out)
    if scores.manifest.counts["skipped"]:
        say(f"evaluate: {scores.manifest.counts['skipped']:,} images skipped; listed in {request.out / SKIPPED}")
    say(scores.table())
    count = len(plan.tasks) + len(plan.caption_tasks)
    say(f"evaluate: {scores.manifest.counts['images']:,} images of {count} tasks -> {scores.report}")
    return scores


def merged(given: dict[str, Any]) -> Path:
    if given["models"] or given["data"] is not None or given["ds"] is not None:
        raise ReactvlError(
            "submission: merges prediction files that are there; give it alone, after an evaluation with --save-predictions"
        )
    return submission.merge(Path(given["submission"]))


@dataclasses.dataclass(frozen=True)
class Plan:
    """What an evaluation will do: tasks with their images, models, columns; and what identifies the result.

    `opened` are all splits that are needed. `pairs` are the retrieved pairs of the baselines.
    """

    tasks: list[Task]
    caption_tasks: list[CaptionTask]
    opened: dict[TaskImages, Samples]
    compared: list[Candidate]
    pairs: Pairs | None
    columns: list[Column]
    options: dict[str, Any]
    inputs: dict[str, InputId]


def planned(request: Request) -> Plan:
    """Everything that can be checked without encoding an image."""
    found = found_once(request.finding)
    tasks = [with_metric(task, request.metric) for task in found if isinstance(task, Task)]
    caption_tasks = [task for task in found if isinstance(task, CaptionTask)]
    opened = {}
    for task in found:
        opened[TaskImages(request.finding, task.name, request.split)] = task.samples(request.split)
    if request.probes:
        for task in with_train(tasks, request.split):
            opened[TaskImages(request.finding, task.name, "train")] = task.samples("train")
    compared = candidates(request.models, request.shares)
    pairs = pairs_of(request, compared) if tasks else None
    free = []
    if request.baselines and tasks:
        free += ["synonyms"] if any(len(names) > 1 for task in tasks for names in task.synonyms) else []
        free += ["retrieved means", "retrieved linear"] if pairs is not None else []
    chosen = columns(
        [one.label for one in compared],
        shared=[one.label for one in compared if one.share is None],
        baselines=free,
        probes=request.probes,
        shots=request.shots,
        seeds=request.seeds,
    )
    options = {
        "models": [one.label for one in compared],
        "tasks": [task.name for task in found],
        "split": request.split,
        "templates": request.prompts,
        "head": request.rule,
        "columns": [dataclasses.asdict(column) for column in chosen],
        "save_predictions": request.save_predictions,
        "precision": request.machine.precision,
    }
    inputs = {f"model {number}": InputId(one.id.name, one.id.sha256) for number, one in enumerate(compared)}
    for images, samples in opened.items():
        task = next(task for task in [*tasks, *caption_tasks] if task.name == images.task)
        key = f"task {task.name}" if images.split == request.split else f"task {task.name}, {images.split}"
        inputs[key] = InputId(os.path.relpath(task.folder, request.out), task_sha256(task, samples))
    if pairs is not None:
        inputs["pairs"] = input_id(pairs.folder, request.out)
    return Plan(tasks, caption_tasks, opened, compared, pairs, chosen, options, inputs)


def with_metric(task: Task, metric: str | None) -> Task:
    return task if metric is None else dataclasses.replace(task, metric=metric)


def with_train(tasks: list[Task], split: str) -> list[Task]:
    """The tasks that a probe can be trained for; ReactvlError when there are none."""
    if split == "train":
        raise ReactvlError("probe: trains on the train split; evaluate another --split")
    trainable = [task for task in tasks if "train" in task.splits]
    if not trainable:
        raise ReactvlError(f"probe: none of the {len(tasks)} tasks has a train split")
    if len(trainable) < len(tasks):
        lacking = [task.name for task in tasks if "train" not in task.splits]
        say(f"evaluate: no probe of {', '.join(lacking)}: without a train split")
    return trainable


def pairs_of(request: Request, compared: list[Candidate]) -> Pairs | None:
    """The pairs that were named, or those that the first customized model was made from and that are still there."""
    if not request.baselines:
        return None
    if request.pairs is not None:
        return usable(request.pairs, compared[0])
    folders = list(dict.fromkeys(path for one in compared[1:] if (path := one.pairs) is not None))
    for folder in folders:
        try:
            pairs = usable(folder, compared[0])
        except ReactvlError as fault:
            say(f"evaluate: no baselines of retrieved pairs: {fault}")
            continue
        if len(folders) > 1:
            say(f"evaluate: the models were customized on different pairs; the baselines are of {folder}")
        return pairs
    return None


def usable(folder: Path, base: Candidate) -> Pairs:
    """Pairs whose images' features by the base are there, or can be made; ReactvlError when neither."""
    pairs = Pairs(folder)
    if not embedded(pairs, base.id):
        pairs.embeddings.check_pool()
    return pairs


def task_sha256(task: Task | CaptionTask, samples: Samples) -> str:
    if isinstance(task, CaptionTask):
        return samples.fingerprint
    return sha256_json([task.classes, task.synonyms, task.templates, task.metric, samples.fingerprint])


def execute(request: Request, plan: Plan, stage: Stage) -> None:
    """Encode what is missing, score a task at a time, write the folder's files: made under `.work`, moved when all are
    whole."""
    watch = Watch(request.machine.precision)
    evidence = gathered(request, plan, watch)
    fresh = stage.work / "files"
    shutil.rmtree(fresh, ignore_errors=True)
    began = time.monotonic()
    facts = {
        one.label: elevater_files.ModelFacts(one.label, one.parameters, one.visual_parameters) for one in plan.compared
    }

    def save(task: Task, column: Column, answers: Answers) -> None:
        folder = fresh / elevater_files.FOLDER / homes[column.model]
        elevater_files.write(
            folder / elevater_files.way(column.method, column.shots),
            task.benchmark or task.name,
            facts[column.model],
            answers.predictions(),
            shots=column.shots,
            seeds=column.seeds,
            trainable=answers.trainable,
        )

    homes = elevater_files.folder_names([one.label for one in plan.compared])
    scored = []
    for task in plan.tasks:
        one = score_task(task, request, plan, evidence, stage.work, save if request.save_predictions else None)
        scored.append(one)
        shown = [column.label for column in plan.columns if column.shots is None and column.label in one.rankings]
        outputs.write_predictions(fresh / PREDICTIONS / f"{task.name}.parquet", one, shown)
    retrieved, unread = caption_results(request, plan, evidence)
    skipped = [(one.task.name, *entry) for one in scored for entry in one.skipped] + unread
    found = results(scored, retrieved, described(plan.compared), plan.columns, about(request))
    customized = [one.label for one in plan.compared[1:] if is_customized(one, plan.compared[0])]
    found["verdicts"] = verdicts(scored, plan.columns, customized) if scored else []
    found["baselines"] = evidence.baseline_facts
    watch.seconds["scoring"] += time.monotonic() - began
    write_json(fresh / RESULTS, found)
    outputs.write_skipped(fresh / SKIPPED, skipped)
    page.write(fresh / REPORT, found, scored, plan.compared, watch.parts())
    for path in sorted(fresh.iterdir()):
        target = stage.out / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
    stage.timing |= watch.timing()
    stage.finish(
        counts={
            "images": sum(len(one.rows) for one in scored) + sum(one["images"] for one in retrieved),
            "skipped": len(skipped),
            "models": len(plan.compared),
            "tasks": len(plan.tasks) + len(plan.caption_tasks),
        },
        facts={"precision": watch.precision},
    )


def caption_results(
    request: Request, plan: Plan, evidence: Evidence
) -> tuple[list[dict[str, Any]], list[tuple[str, str, str]]]:
    """The results of image-text retrieval, and (task, image, reason) of what was left out."""
    found, unread = [], []
    labels = [one.label for one in plan.compared]
    for task in plan.caption_tasks:
        images = TaskImages(request.finding, task.name, request.split)
        features = {one.label: evidence.features(one, images) for one in plan.compared}
        texts = {label: evidence.texts[label, task.name] for label in labels}
        made, skipped = captions.judged(task, plan.opened[images], features, texts, labels)
        found.append(made)
        unread += [(task.name, *entry) for entry in skipped]
    return found, unread


def is_customized(one: Candidate, base: Candidate) -> bool:
    """Whether a model says that it was made by `customize`, or has the base's text tower and another image tower; those of
    a sweep are between models, not models of their own."""
    if one.share is not None:
        return False
    return one.customization is not None or (one.text_sha256 == base.text_sha256 and one.id.sha256 != base.id.sha256)


def described(compared: list[Candidate]) -> list[dict[str, Any]]:
    return [
        {
            "label": one.label,
            "name": one.id.name,
            "sha256": one.id.sha256,
            "dim": one.id.dim,
            "parameters": one.parameters,
            "visual_parameters": one.visual_parameters,
            "image_size": one.image_size,
            "share": one.share,
        }
        for one in compared
    ]


def about(request: Request) -> dict[str, Any]:
    templates = "the tasks' own" if request.prompts is None else "given"
    return {"split": request.split, "templates": templates, "head": request.rule}
