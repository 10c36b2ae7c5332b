"""One task scored: every column's answers from stored features, a column at a time, so that the scores of one are all that
is held."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reactvl.evaluate import baselines, probing
from reactvl.evaluate.baselines import Head
from reactvl.evaluate.candidates import Candidate
from reactvl.evaluate.columns import PROBES, ZERO_SHOT, Column
from reactvl.evaluate.evidence import Evidence, has_synonyms
from reactvl.evaluate.features import Features
from reactvl.evaluate.request import Request
from reactvl.evaluate.results import Scored, common_rows
from reactvl.evaluate.sources import TaskImages
from reactvl.heads.zero_shot import softmax
from reactvl.tasks import Task

if TYPE_CHECKING:
    from reactvl.evaluate.run import Plan


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a column says of every image that its model could read: scores float32 (len(rows), C), one array a seed, of
    the rows `rows` of `images` samples. They are logits, or `odds`: probabilities already. `trainable` parameters were
    trained for them; `facts` go into results.json."""

    scores: Sequence[np.ndarray]
    rows: np.ndarray
    images: int
    odds: bool = False
    trainable: int = 0
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        return scores if self.odds else softmax(scores)

    def judge(self, one: Scored, column: Column) -> None:
        """Give a task the scores of the rows that it is judged on."""
        at = np.searchsorted(self.rows, one.rows)
        scores = [each[at] for each in self.scores]
        one.take(column, scores, [self.probabilities(each) for each in scores], self.facts)

    def predictions(self) -> list[np.ndarray]:
        """Probabilities float32 (images, C) of every sample, one array a seed; NaN where it could not be read."""
        found = []
        for each in self.scores:
            whole = np.full((self.images, each.shape[1]), np.nan, np.float32)
            whole[self.rows] = self.probabilities(each)
            found.append(whole)
        return found


Save = Callable[[Task, Column, Answers], None]


def score_task(
    task: Task, request: Request, plan: "Plan", evidence: Evidence, work: Path, save: Save | None = None
) -> Scored:
    """A task judged by all columns that it can have, on the images that all models could read; `save` is given every
    column's answers when they are made."""
    images = TaskImages(request.finding, task.name, request.split)
    samples = evidence.opened[images]
    bad: dict[int, str] = {}
    for candidate in reversed(plan.compared):
        bad |= evidence.features(candidate, images).bad
    rows, skipped = common_rows(task.name, samples, bad)
    one = Scored(task, task.templates, samples, rows, skipped)
    for candidate in plan.compared:
        features = evidence.features(candidate, images)
        for column in plan.columns:
            if column.model != candidate.label or column.shots is not None:
                continue
            made = head_of(column, task, candidate, evidence)
            if made is None:
                continue
            head, facts = made
            answers = Answers([head.scores(features.vectors)], features.rows, len(samples), facts=facts)
            answers.judge(one, column)
            if save:
                save(task, column, answers)
        probe_all(one, request, plan, candidate, features, evidence, work, save)
    return one


def head_of(column: Column, task: Task, candidate: Candidate, evidence: Evidence) -> tuple[Head, dict[str, Any]] | None:
    """The linear classifier of a zero-shot column or a label-free baseline; None for one that the task cannot have."""
    text = evidence.heads[candidate.label, task.name, "first"]
    if column.method == ZERO_SHOT:
        return Head(text), {}
    if column.method == "synonyms":  # of a task without them it is the base's own head
        return Head(evidence.heads[candidate.label, task.name, "all"] if has_synonyms(task) else text), {}
    members = baselines.matched(task, evidence.retrieved.classes)
    lacking = sum(not len(evidence.retrieved.rows_of(classes)) for classes in members)
    facts: dict[str, Any] = {"classes_without_pairs": lacking}
    if column.method == "retrieved means":
        head = baselines.mixed_means(evidence.retrieved, members, text)
        return None if head is None else (head, facts)
    fitted = baselines.linear(evidence.retrieved, members)
    return None if fitted is None else (fitted[0], facts | {"l2": fitted[1]})


def probe_all(
    one: Scored,
    request: Request,
    plan: "Plan",
    candidate: Candidate,
    features: Features,
    evidence: Evidence,
    work: Path,
    save: Save | None,
) -> None:
    """The probes of a model on a task that has a train split."""
    test = TaskImages(request.finding, one.task.name, request.split)
    train = TaskImages(request.finding, one.task.name, "train")
    if train not in evidence.opened or candidate.share is not None:
        return
    subject = probing.Subject(one.task, candidate, test, features, train, evidence, work)
    for probe in request.probes:
        chosen = [
            column for column in plan.columns if column.model == candidate.label and column.method == PROBES[probe]
        ]
        found = probing.answers(probe, chosen, subject)
        for column in chosen:
            answers = found[column.shots]
            answers.judge(one, column)
            if save:
                save(one.task, column, answers)
