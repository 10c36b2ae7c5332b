"""A step of customization against open_clip's own way: ViT-B/32 and the demo's model, gated-image and locked-text.

    .venv/bin/python benchmarks/customize.py

The baseline is what `open_clip_train` does on the same weights, batch, precision and hardware (`training_ways.py`); both
take turns in one process. A step's limit is its least arithmetic over the machine's rate in one large product, both by
`train/flops.py`. Peak memory is that of a child process of each way: weights, batches and optimizer count. With a GPU,
batch 512 besides, alone on synthetic input and from JPEGs to steps.
"""

import json
import shutil
import statistics
import sys
import time
from pathlib import Path

import measuring
import numpy as np
import photographs
import torch
import towers
import training_ways
from training_ways import Ours, Upstream, way

import reactvl as rv
from reactvl.clip_imports import timm
from reactvl.models.encoder import Encoder
from reactvl.train.flops import peak, step_flops

DIFFERENCES = (
    "open_clip_train's loop restated: no logging, no GradScaler, one process; the optimizer's groups and betas are its own",
    "dropout of a locked Hugging Face text tower is off, which upstream leaves on: losses would not compare",
    "the gates are our modules in open_clip's tower, checkpointed as the released code checkpoints its own",
    "the weights are random, of a seed, but for the demo's; speed does not depend on them",
)
MODES = ("gated-image", "locked-text")
NEEDS = {"gated-image": 1.9, "locked-text": 1.4}
WORKERS = Path(__file__).with_name("training_ways.py")
DEMO = Path(__file__).parents[1] / "demo"
FREEZE = {"ViT-B/32": [], "demo": [r"visual\.conv1\.stem\..*"]}
CHECK = {"gated-image": 1e-3, "locked-text": 2e-4}  # learning rates of the check of accuracy, which has no warm-up
SAME = measuring.Need("no more than a point from it", lambda ours, baseline: abs(ours - baseline) <= 0.01)


def main() -> None:
    options = measuring.parser(__doc__)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--demo-batch", type=int, default=128)
    options.add_argument("--steps", type=int, default=6, help="steps of the end-to-end rows and of the losses compared")
    options.add_argument("--check-steps", type=int, default=40, help="steps of the check of tuned accuracy")
    options.add_argument("--threads", type=int, default=0, help="compute threads; default: torch's")
    options.add_argument("--gpu-batch", type=int, default=512)
    photographs.options(options)
    given = measuring.parsed(options, {"batch": 4, "demo_batch": 4, "steps": 2, "check_steps": 2, "gpu_batch": 8})
    if given.threads:
        torch.set_num_threads(given.threads)
    report = measuring.Report(
        "customize", f"a training step, ViT-B/32 at batch {given.batch} and the demo's model", given, 25, DIFFERENCES
    )
    homes = {"ViT-B/32": towers.vit_b_32(given.cache, given.quick), "demo": DEMO / "base"}
    batches = {"ViT-B/32": given.batch, "demo": given.demo_batch}
    device = torch.device("cpu")
    for label, home in homes.items():
        for tune in MODES:
            alone(report, given, label, str(home), tune, batches[label], device)
    end_to_end(report, given, homes["ViT-B/32"], device, given.batch)
    accuracy(report, given)
    if torch.cuda.is_available():
        on_gpu(report, given, homes["ViT-B/32"])
    else:
        report.note("No GPU here: the rows of batch 512 on a GPU were not run.")
    report.finish()


def precisions() -> list[str]:
    return ["fp32", "bf16"] if torch.cpu._is_avx512_bf16_supported() or torch.cuda.is_available() else ["fp32"]


def alone(report, given, label: str, home: str, tune: str, batch: int, device: torch.device, ways=None) -> None:
    """Step times of all ways in turns on synthetic input, their losses, their distance to the limit, their memory."""
    freeze = FREEZE[label] if tune == "locked-text" else []
    rounds = max(given.rounds, 1)
    inputs = training_ways.inputs(rv.load(home), batch, 1 + rounds)
    names = ways or ["upstream", *precisions(), *(["upstream bf16"] if "bf16" in precisions() else [])]
    made = {name: way(name, home, tune, freeze, device) for name in names}
    losses: dict[str, list[float]] = {name: [training_ways.step(each, inputs[0])] for name, each in made.items()}

    def run(name: str, each: Upstream | Ours):
        return lambda: losses[name].append(training_ways.step(each, inputs[len(losses[name])]))

    place = f"{label} {tune}, batch {batch}"
    seconds = report.timed({name: run(name, each) for name, each in made.items()}, rounds, f"{place}: ")
    gaps = {name: max(apart(losses[name], losses["upstream"])) for name in names}
    need = measuring.times(NEEDS[tune]) if label == "ViT-B/32" else None
    report.row(
        f"{place}: fp32, ms a step", 1000 * seconds["fp32"], 1000 * seconds["upstream"], "ms",
        against="open_clip's way, fp32", need=need, also=gaps["fp32"] < 1e-4,
    )  # fmt: skip
    report.row(
        f"{place}: fp32, largest relative difference of a loss", gaps["fp32"], unit="", need=measuring.most(1e-4)
    )
    if "bf16" in names:
        need = measuring.times(3.5) if label == "ViT-B/32" and tune == "gated-image" else None
        report.row(
            f"{place}: bf16, ms a step", 1000 * seconds["bf16"], 1000 * seconds["upstream"], "ms",
            against="open_clip's way, fp32", need=need,
        )  # fmt: skip
        report.row(
            f"{place}: bf16, ms a step", 1000 * seconds["bf16"], 1000 * seconds["upstream bf16"], "ms",
            against="open_clip's way, amp_bf16",
        )  # fmt: skip
    net = made["fp32"].net
    least = step_flops(net, batch)
    for name in names:
        precision = "bf16" if name.endswith("bf16") else "fp32"
        limit = least / peak(device, precision)
        report.facts[f"{place}: {name}"] = {
            "samples/s": round(batch / seconds[name], 2),
            "MFU": round(limit / seconds[name], 4),
            "losses": losses[name],
        }
        if name in ("fp32", "bf16"):
            report.row(
                f"{place}: {name}, limit (least arithmetic over measured peak); the step's time beside it, ms",
                1000 * limit, 1000 * seconds[name], "ms", against="the step",
            )  # fmt: skip
    report.facts[f"{place}: GFLOP of a step"] = round(least / 1e9, 1)
    made.clear()
    memory(report, given, place, home, tune, freeze, batch, [name for name in names if name != "upstream bf16"])


def memory(report, given, place: str, home: str, tune: str, freeze: list[str], batch: int, names: list[str]) -> None:
    """Peak own memory of a process that takes three steps."""
    own = {}
    for name in names:
        request = {"way": name, "home": home, "tune": tune, "freeze": freeze, "batch": batch, "steps": 3}
        done = measuring.child([sys.executable, WORKERS], request | {"threads": given.threads, "device": "cpu"})
        own[name] = done.own
    for name in names[1:]:
        against = "open_clip's way, fp32"
        report.row(f"{place}: {name}, peak memory of the process", own[name], own["upstream"], "MiB", against=against)


def apart(ours: list[float], theirs: list[float]) -> list[float]:
    return [abs(one - other) / abs(other) for one, other in zip(ours, theirs, strict=True)]


def end_to_end(report, given, home: Path, device: torch.device, batch: int, precision: str = "fp32") -> None:
    """Samples a second from the pool's JPEGs to steps, augmentation included: `rv.customize` against webdataset, timm's
    transform in DataLoader workers and open_clip's step."""
    pairs = batch * (2 + given.steps)
    pool = photographs.pool(given.cache, photographs.given_crops(given), pairs, -(-pairs // 4))
    work = given.cache / "customize"
    for tune in MODES:
        rates: dict[str, list[float]] = {"ours": [], "upstream": []}
        waits: dict[str, list[float]] = {"ours": [], "upstream": []}
        for _ in range(given.rounds):
            rate, wait = ours_from_pool(pool, home, tune, batch, given.steps, precision, device, work / "ours")
            rates["ours"].append(rate), waits["ours"].append(wait)
            rate, wait = upstream_from_pool(pool, str(home), tune, batch, given.steps, precision, device)
            rates["upstream"].append(rate), waits["upstream"].append(wait)
        middle = {name: statistics.median(values) for name, values in rates.items()}
        place = f"ViT-B/32 {tune}, batch {batch}, {precision}"
        # as seconds a sample, so that less is better, like in the rows above
        report.row(
            f"{place}: from JPEGs to steps, ms a sample", 1000 / middle["ours"], 1000 / middle["upstream"], "ms",
            against=f"open_clip's way, {'amp_bf16' if precision == 'bf16' else 'fp32'}",
        )  # fmt: skip
        report.facts[f"{place}: from JPEGs to steps"] = {
            "samples/s": rates,
            "share of the time that waits for data": {
                name: [round(w, 4) for w in each] for name, each in waits.items()
            },
        }
    shutil.rmtree(work, ignore_errors=True)


def ours_from_pool(pool, home, tune, batch, steps, precision, device, out: Path) -> tuple[float, float]:
    """Samples a second and the share of the time that waits for data, as the stage's own figures have them."""
    shutil.rmtree(out, ignore_errors=True)
    rv.customize(
        rv.load(home), f"{pool}/*.tar", tune=tune, steps=steps, batch_size=batch, precision=precision, device=str(device),
        save_every=10**6, out=out,
    )  # fmt: skip
    timing = json.loads((out / "timing.json").read_text())
    return batch * steps / timing["training_seconds"], timing["waiting_seconds"] / timing["training_seconds"]


def upstream_from_pool(pool, home: str, tune: str, batch, steps, precision, device) -> tuple[float, float]:
    """The same of open_clip_train's pipeline: webdataset, Pillow, timm's transform and the tokenizer in workers."""
    import webdataset as wds
    from torch.utils.data import DataLoader

    made = way("upstream bf16" if precision == "bf16" else "upstream", home, tune, [], device)
    model = rv.load(home)
    transform = timm.data.create_transform(  # what open_clip's image_transform makes of REACT's --aug-cfg
        model.image_size, is_training=True, mean=model.mean, std=model.std, scale=(0.08, 1.0), ratio=(0.75, 1.3333),
        hflip=0.5, color_jitter=0.4, auto_augment="rand-m9-mstd0.5-inc1", interpolation="bicubic", re_prob=0.25,
        re_count=1, re_mode="pixel",
    )  # fmt: skip
    dataset = wds.WebDataset(
        sorted(map(str, pool.glob("*.tar"))), shardshuffle=False, workersplitter=wds.split_by_worker
    )
    dataset = (
        dataset.decode("pilrgb").to_tuple("jpg", "txt").map_tuple(transform, lambda text: model.tokenize([text])[0])
    )
    workers = torch.get_num_threads() if device.type == "cpu" else 16
    loader = DataLoader(dataset.repeat(), batch_size=batch, num_workers=min(workers, 4), prefetch_factor=2)
    source, waited, began = iter(loader), 0.0, time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        pixels, tokens = next(source)
        waited += time.perf_counter() - asked
        made.step(pixels, tokens)
    spent = time.perf_counter() - began
    return batch * steps / spent, waited / spent


def accuracy(report, given) -> None:
    """Zero-shot accuracy on the demo's tasks after a short tuning of the demo's model in each way, on the same batches."""
    from reactvl.demo import unpack

    unpack(DEMO)
    base = rv.load(DEMO / "base")
    pixels, captions = demo_pairs(base, 16 if given.quick else 1024)
    vectors = torch.from_numpy(Encoder(base, device="cpu", precision="fp32").texts(captions))
    tokens = base.tokenize(captions)
    rng = np.random.default_rng(0)
    order = [
        rng.choice(len(captions), min(given.demo_batch, len(captions)), replace=False) for _ in range(given.check_steps)
    ]
    device, out = torch.device("cpu"), given.cache / "customize-check"
    shutil.rmtree(out, ignore_errors=True)
    for tune in MODES:
        models, last = {}, {}
        for name in ("upstream", *precisions()):
            freeze = FREEZE["demo"] if tune == "locked-text" else []
            model = training_ways.prepared(str(DEMO / "base"), tune, freeze)
            made = (
                Upstream(model, tune, device, freeze=freeze, lr=CHECK[tune])
                if name == "upstream"
                else Ours(model, tune, device, name, freeze=freeze, lr=CHECK[tune])
            )
            for rows in order:
                last[name] = made.step(pixels[rows], tokens[rows] if name == "upstream" else vectors[rows])
            model.net.eval()
            model.save(out / f"{tune}-{name}")
            models[name] = rv.load(out / f"{tune}-{name}")
        scores = {name: score(model, out / f"scores-{tune}-{name}") for name, model in models.items()}
        for name in precisions():
            place = f"demo {tune}, {given.check_steps} steps"
            report.row(
                f"{place}: {name}, mean zero-shot accuracy on the demo's tasks", scores[name], scores["upstream"], "",
                against="open_clip's way, fp32", need=SAME,
            )  # fmt: skip
            report.row(f"{place}: {name}, last loss", last[name], last["upstream"], "", against="open_clip's way, fp32")
    shutil.rmtree(out)


def demo_pairs(base: rv.Model, count: int) -> tuple[torch.Tensor, list[str]]:
    """Pictures as the model takes them, and captions, from the front of the demo's pool."""
    import io

    from PIL import Image

    from reactvl.pool.tars import scan

    pixels, captions = [], []
    for path in sorted((DEMO / "pool").glob("*.tar")):
        if len(captions) == count:
            break
        data = path.read_bytes()
        for sample in scan(path):
            if len(captions) == count:
                break
            try:
                picture = Image.open(io.BytesIO(data[sample.offset : sample.offset + sample.size])).convert("RGB")
            except OSError:  # the pool has broken pictures and pairs without a caption, on purpose
                continue
            if not sample.caption:
                continue
            pixels.append(base.preprocess(picture))
            captions.append(sample.caption)
    return torch.stack(pixels), captions


def score(model: rv.Model, out: Path) -> float:
    """The mean over the demo's tasks."""
    results = rv.evaluate([model], data=DEMO / "tasks", out=out).results
    return next(iter(results["mean"].values()))["value"]


def on_gpu(report, given, home: Path) -> None:
    """The rows of a GPU: batch 512, alone and end to end, in bf16."""
    device, batch = torch.device("cuda"), given.gpu_batch
    inputs = training_ways.inputs(rv.load(home), batch, 3)
    for tune in MODES:
        rates = {}
        for name in ("upstream bf16", "bf16"):
            made = way(name, str(home), tune, [], device)
            on_device = [tuple(part.to(device) for part in each) for each in inputs]
            for each in on_device:
                training_ways.step(made, each)
            torch.cuda.synchronize()
            began, count = time.perf_counter(), 2 if given.quick else 20
            for number in range(count):
                training_ways.step(made, on_device[number % len(on_device)])
            torch.cuda.synchronize()
            rates[name] = batch * count / (time.perf_counter() - began)
            least = step_flops(made.net, batch) / peak(device, "bf16")
            report.facts[f"GPU {tune} {name}"] = {
                "samples/s": round(rates[name], 1),
                "MFU": round(least * rates[name] / batch, 4),
                "peak memory, MiB": round(torch.cuda.max_memory_allocated() / 2**20),
            }
            del made
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        report.row(
            f"GPU, ViT-B/32 {tune}, batch {batch}: ms a sample, synthetic input", 1000 / rates["bf16"],
            1000 / rates["upstream bf16"], "ms", against="open_clip's way, amp_bf16",
        )  # fmt: skip
    end_to_end(report, given, home, device, batch, "bf16")


if __name__ == "__main__":
    main()
