"""One customization: from a request to the files of its folder."""

import copy
import dataclasses
import itertools
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from reactvl.handles.embeddings import STAGES, Embeddings
from reactvl.handles.pairs import Pairs
from reactvl.manifest import ReactvlError, Stage, read_manifest, write_json
from reactvl.models.encoder import Encoder, autocast, choose_device, choose_precision, fix_threads, text_features
from reactvl.models.gates import gated_layers, residual_blocks
from reactvl.models.model import Model, with_gates
from reactvl.models.weights import digest
from reactvl.progress import say
from reactvl.train import loader, loop, tuning, views
from reactvl.train.augmentation import Augment, AugmentationCfg
from reactvl.train.frozen import Split, freeze_statistics, split
from reactvl.train.order import Order
from reactvl.train.pairs import TrainingPairs, from_shards

SHUT = 0.05  # a gate whose |tanh(alpha)| stays below this has hardly opened


@dataclasses.dataclass
class Request:
    """The options of `customize`, checked."""

    base: Model
    pairs: object
    tune: str
    last_k: int | None
    freeze: list[str]
    epochs: float
    steps: int | None
    batch_size: int
    lr: float | None
    alpha_lr: float
    wd: float
    warmup: int | None
    grad_clip_norm: float | None
    augmentation: AugmentationCfg
    views: int
    view_cache: Path
    train_num_samples: int | None
    seed: int
    precision: str
    save_every: int
    device: str
    workers: int | None


def execute(request: Request, stage: Stage) -> None:
    """Train and write `model/`, `metrics.jsonl`, `checkpoints/last.safetensors` and the manifest."""
    device = choose_device(request.device)
    precision = choose_precision(request.precision, device)
    threads = fix_threads()
    model = prepare(request)
    model.net.to(device)
    lr = request.lr or tuning.LEARNING_RATES[request.tune]
    groups = tuning.choose(
        model.net, request.tune, lr=lr, alpha_lr=request.alpha_lr, weight_decay=request.wd, freeze=request.freeze
    )
    trained = tuning.trained_count(model.net)
    say(
        f"customize: {request.tune}, {trained:,} trained parameters in {sum(len(group.names) for group in groups)} tensors"
    )

    pairs = training_pairs(request)
    found = len(pairs)
    augment = Augment(model, request.augmentation, request.seed)
    at = split(model.net.visual, deepest="stem" if request.views else "block")
    features = None
    if request.views:
        features = view_features(request, model, pairs, at, device, precision)
        keep = np.array([row for row in range(len(pairs)) if row not in features.bad], np.int64)
    else:
        keep = np.arange(len(pairs))
    unread: dict[int, str] = dict(features.bad) if features else {}
    if not len(keep):
        raise ReactvlError(f"none of the {len(pairs):,} pictures can be read ({next(iter(unread.values()))})")
    texts, text_upper = text_source(model, pairs, device, precision)

    steps = request.steps or math.ceil(request.epochs * len(keep) / request.batch_size)
    schedule = loop.Schedule(steps, min(request.warmup if request.warmup is not None else max(steps // 10, 1), steps))
    order = Order(len(keep), request.batch_size, request.seed)
    freeze_statistics(model.net)

    def batches(start: int) -> Iterator[loop.Batch]:
        planned = ((keep[rows], epochs) for rows, epochs in map(order.step, range(start, steps)))
        if features:
            for rows, epochs in planned:
                inputs = features.take(rows, views.view_of(rows, epochs, request.views))
                yield loop.Batch(inputs, texts(rows), float(epochs[-1]))
            return
        planned, again = itertools.tee(planned)
        plan = ([(int(row), int(epoch)) for row, epoch in zip(rows, epochs, strict=True)] for rows, epochs in planned)
        made = loader.batches(pairs, augment, plan, request.workers)
        for (pictures, rows, bad), (_, epochs) in zip(made, again, strict=False):
            unread.update(bad)
            if len(rows) < 2:
                raise ReactvlError(
                    f"a batch has {len(rows)} readable pictures ({next(iter(bad.values()), '')}); is the pool whole?"
                )
            with torch.no_grad(), autocast(device, precision):
                inputs = at.lower(pictures.to(device))
            yield loop.Batch(inputs, texts(rows), float(epochs[-1]))

    report = loop.train(
        model.net, at.upper, text_upper, groups, batches, schedule, folder=stage.work, metrics=stage.work / "metrics.jsonl",
        precision=precision, checkpoint_every=request.save_every, grad_clip=request.grad_clip_norm,
    )  # fmt: skip
    write(model, stage)
    if unread:
        listed = {f"{pairs.place(row)[0].name}/{pairs.keys[row]}": unread[row] for row in sorted(unread)}
        write_json(stage.out / "skipped.json", listed)
    facts = {
        "trained_parameters": trained,
        "gated_layers": gated_layers(model.net.visual),
        "lr": lr,
        "warmup": schedule.warmup,
        "precision": precision,
        "threads": threads,
        "frozen_below": at.at,
        "logit_scale": model.logit_scale,
        "model": digest(model.net.state_dict(), model.config),
    }
    counts = {"pairs": found, "steps": steps, "unread": len(unread)}
    if (widest := loop.openings_after(model.net)) is not None:
        facts["widest_gate"] = widest
    stage.timing |= {"training_seconds": report.seconds, "waiting_seconds": report.waited}
    if report.steps_done:
        stage.timing["pairs_per_second"] = report.pairs / report.seconds
    stage.finish(counts=counts, facts=facts)
    tell(stage, facts, counts)


def prepare(request: Request) -> Model:
    """The model to train: a copy of the base, with fresh gates where gates are to be trained and it has none."""
    base = request.base
    layers = gated_layers(base.net.visual)
    if request.tune != "gated-image":
        if request.last_k is not None:
            raise ReactvlError(f"last_k = {request.last_k}: only tune gated-image makes gates")
        return copy_of(base)
    if layers:
        if request.last_k not in (None, len(layers)):
            raise ReactvlError(
                f"last_k = {request.last_k}: the model has gates in {len(layers)} blocks already; leave last_k out"
            )
        return copy_of(base)
    count = len(residual_blocks(base.net.visual))
    last_k = request.last_k or (12 if count >= 48 else min(6, count))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.seed)
        return with_gates(base, last_k)


def copy_of(base: Model) -> Model:
    """A copy whose training leaves the base as it is."""
    return Model(base.name, copy.deepcopy(base.net), copy.deepcopy(base.config))


def training_pairs(request: Request) -> TrainingPairs:
    """The pairs of a view or of whole embeddings, with their text vectors, or of shards."""
    folder = getattr(request.pairs, "folder", request.pairs)
    if not (Path(str(folder)) / "manifest.json").exists():
        pairs = from_shards(str(request.pairs))
    elif read_manifest(folder).stage in STAGES:
        embeddings = Embeddings(folder)
        columns = ["shard", "key", "offset", "size", "caption"]
        tables = [
            part.metadata(columns)
            .append_column("part", pa.array(np.full(part.rows, part.number, np.int32)))
            .append_column("row", pa.array(np.arange(part.rows)))
            for part in embeddings.parts
        ]
        pairs = from_table(embeddings, pa.concat_tables(tables), "caption", request.base)
    else:
        view = Pairs(folder)
        columns = ["part", "row", "shard", "key", "offset", "size", "TEXT"]
        pairs = from_table(view.embeddings, view.table(columns), "TEXT", request.base)
    return pairs.sample(request.train_num_samples, request.seed) if request.train_num_samples else pairs


def from_table(embeddings: Embeddings, table: pa.Table, caption: str, base: Model) -> TrainingPairs:
    """Rows of embeddings as training pairs, their text vectors too where this very model made them."""
    names = table["shard"].to_pylist()
    distinct = sorted(set(names))
    place = {name: index for index, name in enumerate(distinct)}
    vectors = None
    if embeddings.model.sha256 == base.id.sha256 and all(part.texts() is not None for part in embeddings.parts):
        part, row = table["part"].to_numpy(), table["row"].to_numpy()
        vectors = np.empty((len(table), base.id.dim), np.float32)
        for block in embeddings.parts:
            chosen = np.flatnonzero(part == block.number)
            vectors[chosen] = block.texts()[row[chosen]]
    return TrainingPairs(
        [embeddings.shard_path(name) for name in distinct],
        np.array([place[name] for name in names], np.int32),
        table["offset"].to_numpy().astype(np.int64),
        table["size"].to_numpy().astype(np.int64),
        table["key"].to_pylist(),
        table[caption].to_pylist(),
        vectors,
    )


def view_features(
    request: Request,
    model: Model,
    pairs: TrainingPairs,
    at: Split,
    device: torch.device,
    precision: str,
) -> views.ViewFeatures:
    """The kept features of the frozen lower tower; ReactvlError when the tower has none."""
    if at.at == "pixels":
        raise ReactvlError("views: no part of the image tower below the trained ones is frozen; leave --views out")
    lower = digest(at.state, {"at": at.at, "precision": precision, "device": device.type})
    augment = Augment(
        model, request.augmentation, seed=0
    )  # kept views are the same for every seed; see `train/views.py`
    folder = request.view_cache / views.key(augment, lower, model.image_size)
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


def text_source(
    model: Model, pairs: TrainingPairs, device: torch.device, precision: str
) -> tuple[Callable[[np.ndarray], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]:
    """Rows to the text side's input, and that input to text features (B, dim): what is frozen of the text tower runs once.

    A locked tower gives known vectors; a frozen Hugging Face transformer under a trained projection gives its pooled
    features; any other tower gets tokens, cut to the longest of the batch where that is exact.
    """
    encoder = Encoder(model, device=str(device), precision=precision)
    trained = [name for name, parameter in model.net.named_parameters() if parameter.requires_grad]
    beside = [name for name in trained if not name.startswith("visual.") and name not in ("logit_scale", "logit_bias")]
    if not beside:
        vectors = pairs.vectors if pairs.vectors is not None else encoder.texts(pairs.captions)
        return lambda rows: torch.from_numpy(np.asarray(vectors[rows], np.float32)), lambda texts: texts
    if all(name.startswith("text.proj.") for name in beside):
        pooled = encoder.pooled_texts(pairs.captions)
        return lambda rows: torch.from_numpy(pooled[rows]), model.net.text.proj

    def tokens(rows: np.ndarray) -> torch.Tensor:
        made = model.tokenize([pairs.captions[row] for row in rows])
        used = (made != encoder.pad_id).any(dim=0).nonzero().max() + 1 if encoder.trims else made.shape[1]
        return made[:, : int(used)]

    return tokens, lambda made: text_features(model.net, made)


def write(model: Model, stage: Stage) -> None:
    """Move what training left in the work folder to its place and write the model folder."""
    model.net.eval()
    shutil.rmtree(stage.out / "model", ignore_errors=True)
    model.save(stage.work / "model")
    os.replace(stage.work / "model", stage.out / "model")
    (stage.out / "checkpoints").mkdir(exist_ok=True)
    os.replace(stage.work / loop.CHECKPOINT, stage.out / "checkpoints" / "last.safetensors")
    os.replace(stage.work / "metrics.jsonl", stage.out / "metrics.jsonl")


def tell(stage: Stage, facts: dict, counts: dict[str, int]) -> None:
    speed = f", {stage.timing['pairs_per_second']:,.0f} pairs/s" if "pairs_per_second" in stage.timing else ""
    left_out = f", {counts['unread']:,} unreadable pictures left out" if counts["unread"] else ""
    say(f"customize: {counts['steps']:,} steps on {counts['pairs']:,} pairs{speed}{left_out}; wrote {stage.out}")
    if "widest_gate" in facts:
        say(f"customize: widest gate max |tanh(alpha)| = {facts['widest_gate']:.3f}")
        if facts["widest_gate"] < SHUT:
            say(f"customize: warning: the gates hardly opened (under {SHUT}); train longer or raise --alpha-lr")
