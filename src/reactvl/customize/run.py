"""One customization: from a request to the files of its folder."""

import contextlib
import dataclasses
import functools
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reactvl.customize import data as pairs_data
from reactvl.customize.feed import Feed
from reactvl.customize.prepare import starting_model, trained_model
from reactvl.customize.request import Request, check
from reactvl.customize.sweep import sweep
from reactvl.customize.texts import text_side
from reactvl.customize.validate import Figures, Judge, Often, judge_of, shown
from reactvl.manifest import Manifest, ReactvlError, Stage, stage_folder, write_json
from reactvl.models import load
from reactvl.models.encoder import Encoder, choose_device, fix_threads
from reactvl.models.gates import gated_layers
from reactvl.models.model import Model
from reactvl.models.weights import digest
from reactvl.progress import say
from reactvl.train import checkpoints, flops, loop, tuning, views
from reactvl.train.augmentation import Augment, configure
from reactvl.train.distributed import World, joined_world
from reactvl.train.frozen import Split, freeze_statistics, split
from reactvl.train.order import Order
from reactvl.train.pairs import TrainingPairs
from reactvl.train.schedule import Schedule
from reactvl.train.step import Stepper, precision_of
from reactvl.train.tensor_augmentation import TensorAugment
from reactvl.train.tracking import Pace, check_report_to, tracker

AUGMENT = {"workers": Augment, "device": TensorAugment}
SHUT = 0.05  # a gate whose |tanh(alpha)| stays below this has hardly opened


def run(request: Request) -> Model | Figures:
    """See `reactvl.customize.customize`."""
    check(request)
    with joined_world(request.device) as (world, device):
        request = dataclasses.replace(request, device=device)
        base = first_then_others(world, lambda: starting_model(request))
        if not request.trains:
            return evaluated(request, base, world)
        with opened(request, base, world) as stage:
            if stage.done:
                told(world, f"customize: {stage.out} is up to date")
            else:
                execute(request, base, stage, world)
            world.barrier()
        out = str(request.folder)
        return load(out if "/" in out else f"./{out}")


def evaluated(request: Request, base: Model, world: World) -> Figures:
    """Judge the model as it is; `validation.json` in the run's folder, where one is named."""
    device = choose_device(request.device)
    fix_threads(threads_of(world))
    with contextlib.ExitStack() as stack:
        pairs = None
        if request.val_data is not None:
            work = scratch(stack) if request.folder is None else request.folder / ".work"
            pairs = pairs_data.opened(request.val_data, base, work, None)
        base.net.to(device)
        judge = judge_of(
            request,
            pairs,
            device=device,
            precision=precision_of(request.precision, device),
            world=world,
            text_locked=True,
        )
        figures, _ = judge(base)
    told(world, f"customize: {base.name}: {shown(figures)}")
    if world.first and request.folder is not None:
        write_json(request.folder / "validation.json", {"model": base.id.sha256, **figures})
    return figures


def scratch(stack: contextlib.ExitStack) -> Path:
    import tempfile

    return Path(stack.enter_context(tempfile.TemporaryDirectory()))


@contextlib.contextmanager
def opened(request: Request, base: Model, world: World) -> Iterator[Stage]:
    """The run's folder, locked and written by the first process; where it is refused, all processes end."""
    out, stages = request.folder, []
    with contextlib.ExitStack() as stack:

        def open_folder() -> bool:
            inputs, options = pairs_data.identity(request.pairs, out, "pairs")
            if request.take == "best" or request.interpolate:  # what is validated on decides too
                if request.val_data is not None:
                    more_inputs, more = pairs_data.identity(request.val_data, out, "val_data")
                    inputs, options = inputs | more_inputs, options | more
                if request.imagenet_val is not None:
                    options["imagenet_val"] = str(request.imagenet_val)
            options = {"model": base.id.sha256, **options, **request.options()}
            stages.append(
                stack.enter_context(
                    stage_folder(
                        out, "customize", options=options, inputs=inputs, model=base.id, overwrite=request.overwrite
                    )
                )
            )
            return stages[0].done

        done = world.together(open_folder)
        yield stages[0] if world.first else Stage(out, Manifest("customize", "", {}, {}), done)


def execute(request: Request, base: Model, stage: Stage, world: World) -> None:
    """Train and write `model/`, `metrics.jsonl`, `checkpoints/` and the manifest."""
    device = choose_device(request.device)
    precision = precision_of(request.precision, device)
    threads = fix_threads(threads_of(world))
    model = trained_model(request, base)
    model.net.to(device)
    lr = request.lr or tuning.LEARNING_RATES[request.tune]
    groups = tuning.choose(
        model.net, request.tune, lr=lr, alpha_lr=request.alpha_lr, weight_decay=request.wd, freeze=request.freeze, rules=request.rules,
        unlock_last=request.unlock_last,
    )  # fmt: skip
    trained = tuning.trained_count(model.net)
    told(
        world,
        f"customize: {request.tune}, {trained:,} trained parameters in {sum(len(group.names) for group in groups)} tensors",
    )

    data = first_then_others(world, lambda: pairs_data.read_data(request, base, stage.work))
    augment = AUGMENT[request.augment_on](model, configure(request.aug_cfg), request.seed)
    at = split_of(request, model, precision)
    features = None
    if request.views:
        features = first_then_others(world, lambda: view_features(request, model, data.pairs, at, device, precision))
    bad = features.bad if features else {}
    keep = (
        np.array([row for row in range(len(data.pairs)) if row not in bad], np.int64)
        if bad
        else np.arange(len(data.pairs))
    )
    unread: dict[int, str] = earlier_unread(stage) | dict(bad)
    if not len(keep):
        raise ReactvlError(f"none of the {len(data.pairs):,} pictures can be read ({next(iter(unread.values()))})")
    encoder = Encoder(model, device=str(device), precision="bf16" if precision == "bf16" else "fp32")
    texts = text_side(model, data.pairs, encoder, world, stage.work)
    del encoder  # and with it, on a CPU, a packed copy of the towers

    batch, accumulate = global_batch(request, stage, world)
    repeats = None if data.repeats is None else data.repeats[keep]
    per_epoch = request.train_num_samples or (len(keep) if repeats is None else float(repeats.sum()))
    steps = request.steps or math.ceil(request.epochs * per_epoch / batch)
    warmup = min(request.warmup if request.warmup is not None else max(steps // 10, 1), steps)
    freeze_statistics(model.net)
    order = order_of(data.pairs, keep, batch, request.seed, repeats, per_epoch)
    feed = Feed(
        request, model, data.pairs, keep, order, at, features, augment, texts, world, accumulate, device, precision, unread,
    )  # fmt: skip
    stepper = Stepper(
        model.net, at, texts.upper, groups, precision=precision, device=device, world=world, accumulate=accumulate,
        grad_clip=request.grad_clip_norm, betas=(request.beta1, request.beta2),
        eps=request.eps, compiled=request.compile, seed=request.seed,
    )  # fmt: skip
    judge = judge_of(request, data.held_out, device=device, precision=precision, world=world, text_locked=texts.locked)
    often = Often(batch, per_epoch, steps)
    plan = loop.Plan(
        save_at=lambda done: done % request.save_every == 0 or often.due(done, request.save_frequency),
        keep=request.keep,
        facts={"global_batch": batch},
        validate=validation(request, judge, often, model) if judge else None,
        before_save=lambda: write_json(
            unread_file(stage, world), {str(row): why for row, why in sorted(unread.items())}
        ),
    )
    with contextlib.ExitStack() as ended:
        if data.pairs.storage is not None:
            ended.callback(data.pairs.storage.close)
        report = loop.train(
            stepper, lambda start: feed.batches(start, steps), Schedule(steps, warmup, request.lr_scheduler), plan,
            folder=stage.work, tracking=functools.partial(tracking, request, stage, world),
            pace=pace_of(model, at, features, batch, device, precision, world),
        )  # fmt: skip

    if request.take == "best" and (champion := checkpoints.best(checkpoints.whole(stage.work / loop.CHECKPOINTS))):
        checkpoints.load_weights(champion, stepper)
        told(world, f"customize: the best by validation is of step {champion.step:,}")
    swept = None
    if request.interpolate:
        model, swept = sweep(base, model, request.interpolate, judge)
        told(world, f"customize: {swept['best']:g} of the way from base to tuned is best on validation data")
    world.barrier()  # every process has read what the first now moves
    if not world.first:
        return
    unread |= earlier_unread(stage)
    facts = {
        "trained_parameters": trained,
        "gated_layers": gated_layers(model.net.visual),
        "lr": lr,
        "warmup": warmup,
        "precision": precision,
        "threads": threads,
        "frozen_below": at.at,
        "logit_scale": model.logit_scale,
        "model": digest(model.net.state_dict(), model.config),
    }
    if world.size > 1 or batch != request.batch_size:
        facts |= {"processes": world.size, "global_batch": batch}
    counts = {"pairs": len(data.pairs), "steps": steps, "unread": len(unread)}
    if data.held_out is not None:
        counts["held_out"] = len(data.held_out)
    if (widest := loop.openings_after(model.net)) is not None:
        facts["widest_gate"] = widest
    write(model, stage, swept)
    if unread:
        listed = {f"{data.pairs.place(row)[0].name}/{data.pairs.keys[row]}": unread[row] for row in sorted(unread)}
        write_json(stage.out / "skipped.json", listed)
    stage.timing |= {"training_seconds": report.seconds, "waiting_seconds": report.waited}
    if report.steps_done:
        stage.timing["pairs_per_second"] = report.pairs / report.seconds
    stage.finish(counts=counts, facts=facts)
    tell(stage, facts, counts)


def first_then_others(world: World, make: Callable[[], Any]) -> Any:
    """What `make` gives, in every process; the first goes before, so that what it fetches or writes is there for the others."""
    made = []
    world.together(lambda: made.append(make()))
    return made[0] if made else make()


def threads_of(world: World) -> int | None:
    """Compute threads of this process: its share of the machine's cores; None for all."""
    if world.size == 1:
        return None
    return max(len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", world.size)), 1)


def global_batch(request: Request, stage: Stage, world: World) -> tuple[int, int]:
    """Pairs a step in all processes, and pieces that each works on its part in. A run that goes on keeps its global batch,
    whatever the number of processes now."""
    batch = request.batch_size * request.accum_freq * world.size
    found = checkpoints.whole(stage.work / loop.CHECKPOINTS)
    before = found[-1].facts.get("global_batch", batch) if found else batch
    if before != batch:
        told(world, f"customize: goes on with {before:,} pairs a step, as it began, now in {world.size} processes")
    return before, math.ceil(math.ceil(before / world.size) / request.batch_size)


def order_of(
    pairs: TrainingPairs, keep: np.ndarray, batch: int, seed: int, repeats: np.ndarray | None, per_epoch: float
) -> Order:
    """The order of the run; shard by shard where the shards are remote."""
    more: dict[str, Any] = {"per_epoch": per_epoch} if repeats is None else {"per_epoch": per_epoch, "repeats": repeats}
    if pairs.storage is not None:
        more |= {"shards": pairs.shard[keep], "window": pairs.storage.window}
    return Order(len(keep), batch, seed, **more)


def split_of(request: Request, model: Model, precision: str) -> Split:
    """The image tower in its frozen and its trained part."""
    checkpointed = "all" if request.grad_checkpointing_gates else "hosts" if request.grad_checkpointing else "no"
    if checkpointed != "no" and hasattr(model.net, "transformer"):
        model.net.transformer.grad_checkpointing = True  # of the text tower, where it is trained
    return split(
        model.net.visual,
        deepest="stem" if request.views else "block",
        precision=precision,
        prepack=not request.compile,
        checkpointed=checkpointed,
    )


def validation(
    request: Request, judge: Judge, often: Often, model: Model
) -> Callable[[int], tuple[Figures, float | None] | None]:
    """What the loop calls after every step: figures and the one to choose by, where a validation is due."""

    def validate(done: int) -> tuple[Figures, float | None] | None:
        loss = judge.pairs is not None and often.validation_due(done, request.val_frequency)
        zero_shot = judge.task is not None and often.validation_due(done, request.zeroshot_frequency)
        if not loss and not zero_shot:
            return None
        figures, value = judge(model, loss=loss, zero_shot=zero_shot)
        freeze_statistics(model.net)
        told(judge.world, f"customize: after step {done:,}: {shown(figures)}")
        return figures, value

    return validate


def pace_of(
    model: Model, at: Split, features: Any, batch: int, device: torch.device, precision: str, world: World
) -> Callable[[], Pace]:
    """What measures the run's pace; with the image tower's arithmetic where it can be counted, for MFU. A text tower that is
    trained adds to the time alone: its arithmetic is each batch's own, whose texts are cut to their longest."""
    each = flops.step_flops(model.net, batch, kept=at.at if features else None) / batch
    return lambda: Pace(each, lambda: flops.peak(device, precision) * world.size)


@contextlib.contextmanager
def tracking(request: Request, stage: Stage, world: World, start: int) -> Iterator[Any]:
    """The records of the first process; None in the others."""
    if not world.first:
        yield None
        return
    name = request.name or stage.out.resolve().name
    settings = stage.manifest.options
    reports = check_report_to(request.report_to)
    with tracker(stage.work, reports, out=stage.out, name=name, settings=settings, start=start) as log:
        yield log


def view_features(
    request: Request, model: Model, pairs: TrainingPairs, at: Split, device: torch.device, precision: str
) -> views.ViewFeatures:
    """The kept features of the frozen lower tower; ReactvlError when the tower has none."""
    if at.at == "pixels":
        raise ReactvlError("views: no part of the image tower below the trained ones is frozen; leave --views out")
    lower = digest(at.state, {"at": at.at, "precision": precision, "device": device.type})
    # kept views are the same for every seed; see `train/views.py`
    augment = AUGMENT[request.augment_on](model, configure(request.aug_cfg), seed=0)
    folder = request.kept_views / views.key(augment, lower, model.image_size)
    if at.at == "stem":
        model.net.visual.conv1.stem.to(memory_format=torch.channels_last)
    model.net.eval()
    return views.ensure(
        folder,
        pairs,
        augment,
        at.lower,
        count=request.views,
        device=device,
        precision=precision,
        workers=request.workers,
    )


def unread_file(stage: Stage, world: World) -> Path:
    return stage.work / f"unread_{world.rank}.json"


def earlier_unread(stage: Stage) -> dict[int, str]:
    """Pictures that this run could not read, in any process and before it was stopped, row -> reason."""
    found: dict[int, str] = {}
    for path in sorted(stage.work.glob("unread_*.json")):
        found |= {int(row): why for row, why in json.loads(path.read_text()).items()}
    return found


def write(model: Model, stage: Stage, swept: dict | None) -> None:
    """Move what training left in the work folder to its place and write the model folder."""
    model.net.eval()
    shutil.rmtree(stage.out / "model", ignore_errors=True)
    model.save(stage.work / "model")
    os.replace(stage.work / "model", stage.out / "model")
    checkpoints.publish(stage.work / loop.CHECKPOINTS, stage.out / "checkpoints")
    for name in ("metrics.jsonl", "validation.jsonl"):
        if (stage.work / name).exists():
            os.replace(stage.work / name, stage.out / name)
    if swept is not None:
        write_json(stage.out / "interpolation.json", swept)


def told(world: World, text: str) -> None:
    if world.first:
        say(text)


def tell(stage: Stage, facts: dict, counts: dict[str, int]) -> None:
    speed = f", {stage.timing['pairs_per_second']:,.0f} pairs/s" if "pairs_per_second" in stage.timing else ""
    left_out = f", {counts['unread']:,} unreadable pictures left out" if counts["unread"] else ""
    say(f"customize: {counts['steps']:,} steps on {counts['pairs']:,} pairs{speed}{left_out}; wrote {stage.out}")
    if "widest_gate" in facts:
        say(f"customize: widest gate max |tanh(alpha)| = {facts['widest_gate']:.3f}")
        if facts["widest_gate"] < SHUT:
            say(f"customize: warning: the gates hardly opened (under {SHUT}); train longer or raise --alpha-lr")
