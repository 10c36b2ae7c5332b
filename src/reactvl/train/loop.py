"""The training loop: steps from the last checkpoint to the end, checkpoints and validations on their way, records of all.

A step's pairs and views are functions of (seed, step), so that a run that was killed goes on at the next step; on one CPU
process it ends in the same bytes as a run that was left alone.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reactvl.manifest import ReactvlError
from reactvl.models.gates import gate_openings
from reactvl.progress import progress
from reactvl.train import checkpoints
from reactvl.train.schedule import Schedule
from reactvl.train.step import Batch, Stepper
from reactvl.train.tracking import Pace, Tracker

CHECKPOINTS = "checkpoints"


@dataclasses.dataclass
class Report:
    """What a run of the loop tells: wall-clock figures of this process, not of resumed steps."""

    steps_done: int = 0
    seconds: float = 0.0
    waited: float = 0.0  # seconds spent waiting for data
    pairs: int = 0


@dataclasses.dataclass(frozen=True)
class Plan:
    """When a run saves and validates, asked after every step with the number done, and what its checkpoints say of it.

    `validate` gives None where nothing is due, else figures and the one to choose the best checkpoint by, the greater the
    better, None where it is not among them.
    """

    save_at: Callable[[int], bool]
    keep: int = 1
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    validate: Callable[[int], tuple[dict[str, float], float | None] | None] | None = None
    before_save: Callable[[], None] | None = None  # in every process


def train(
    stepper: Stepper,
    batches: Callable[[int], Iterator[Batch]],
    schedule: Schedule,
    plan: Plan,
    *,
    folder: Path,
    tracking: Callable[[int], contextlib.AbstractContextManager[Tracker | None]],
    pace: Callable[[], Pace] = Pace,
    what: str = "customizing",
) -> Report:
    """Run the steps that `folder`'s checkpoints have not, in place on the network's trained parameters.

    `batches(step)` yields this process's batches from that step on; `tracking(step)` opens the records from that step on
    (None in all processes but the first). `what` names the work. Where a batch cannot be made in one of the processes, the
    steps done are saved before the error ends all. Raises ReactvlError also when the loss is no longer a number.
    """
    world, home = stepper.world, folder / CHECKPOINTS
    found = checkpoints.whole(home)
    if found:
        checkpoints.restore(found[-1], stepper)
    world.barrier()  # nobody removes a checkpoint that another still reads
    start = saved = stepper.steps
    report, clock = Report(), pace()
    bar_of = progress(what, schedule.steps, "steps") if world.first else contextlib.nullcontext()
    with (
        tracking(start) as log,
        bar_of as bar,
        fork_random(stepper.device),
        contextlib.closing(batches(start)) as source,
    ):
        if bar:
            bar.advance(start, resumed=True)
        pending: tuple[int, float, dict] | None = None

        def settle() -> None:
            """Fetch the figures of the last step from the device and tell them."""
            nonlocal pending
            if pending is None:
                return
            record = record_of(*pending, list(stepper.alphas))
            pending = None
            if not math.isfinite(record["loss"]) and stepper.precision != "fp16":
                raise ReactvlError(
                    f"step {record['step']}: the loss is {record['loss']}; lower --lr or set --grad-clip-norm 1 (the last "
                    f"checkpoint is of {saved:,} steps)"
                )
            if log:
                log.step(record, clock.figures())
                clock.show(bar, record)

        def save(value: float | None = None) -> None:
            nonlocal saved
            settle()
            saved = stepper.steps
            if plan.before_save:
                plan.before_save()
            if world.first:
                log.flush()
                facts = plan.facts | ({} if value is None else {"validation": value})
                checkpoints.save(home, stepper, facts, plan.keep)

        while stepper.steps < schedule.steps:
            waiting = time.monotonic()
            batch, fault = following(source)
            clock.waited += time.monotonic() - waiting
            if world.size > 1 and sum(world.counts(int(fault is not None))):
                fault = fault or ReactvlError(f"process {world.rank} ends with another, whose data failed")
            if fault is not None:
                if stepper.steps > saved:
                    save()
                raise fault
            told = stepper.step(batch, schedule.factor(stepper.steps))
            settle()
            pending = (stepper.steps - 1, batch.epoch, told)
            clock.samples += len(batch.inputs) * world.size
            report.steps_done += 1
            done, last = stepper.steps, stepper.steps == schedule.steps
            value = None
            if plan.validate and (judged := plan.validate(done)) is not None:
                figures, value = judged
                if log:
                    log.validation({"step": done, "epoch": round(batch.epoch, 4), **figures})
            if value is not None or last or plan.save_at(done):
                save(value)
    world.barrier()  # the last checkpoint is whole before anybody reads it
    report.seconds, report.waited, report.pairs = clock.seconds, clock.waited, clock.samples
    return report


def following(source: Iterator[Batch]) -> tuple[Batch | None, ReactvlError | None]:
    """The next batch, or why there is none."""
    try:
        return next(source), None
    except ReactvlError as fault:
        return None, fault


def record_of(step: int, epoch: float, told: dict, alphas: list[str]) -> dict[str, Any]:
    """A step's line of metrics.jsonl."""
    record = {
        "step": step,
        "epoch": round(epoch, 4),
        "loss": round(float(told["loss"]), 6),
        "lr": told["lr"],
        "logit_scale": round(float(told["logit_scale"]), 4),
        "accuracy": round(float(told["accuracy"]), 4),
    }
    if "gradient_norm" in told:
        record["gradient_norm"] = round(float(told["gradient_norm"]), 5)
    if "gates" in told:
        values = told["gates"].tolist()
        record["widest_gate"] = round(max(map(abs, values)), 5)
        record["gates"] = {name: round(value, 5) for name, value in zip(alphas, values, strict=True)}
    return record


def fork_random(device: torch.device) -> contextlib.AbstractContextManager:
    """Leave the caller's random generators as they are: every step seeds its own."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def openings_after(net: nn.Module) -> float | None:
    """The widest |tanh(alpha)| of a gated model, None for another."""
    openings = gate_openings(net)
    return max(openings.values()) if openings else None
