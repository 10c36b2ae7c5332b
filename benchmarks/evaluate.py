"""Zero-shot evaluation end to end with ViT-B/32: images a second, against open_clip's own loop and CLIP_benchmark's.

    .venv/bin/python benchmarks/environments/make.py clip-benchmark
    .venv/bin/python benchmarks/evaluate.py

The task is one of photographs, as JPEGs of 384 px in an image folder and, the same bytes, as CLIP_benchmark's webdataset: a
class is the photograph that a crop is from, so that the answers mean something. The weights are those of a seed; the
text projection is fitted so that the prompts of a class come out near the mean of its crops. open_clip's loop is its
`open_clip_train.zero_shot.run` over torchvision's ImageFolder with its transform, behind `build_zero_shot_classifier`, in
fp32, with the best of 0, 1 and 2 DataLoader workers; it runs in our environment on the same torch. All start with the model
loaded and end with the score; ours also writes its predictions, intervals and report, and keeps the image features. What
is measured of the probes' sweep stands in `probe_rows.py`.
"""

import argparse
import contextlib
import functools
import hashlib
import io
import shutil
import statistics
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import measuring
import numpy as np
import photographs
import probe_rows
import torch
import towers
from environments.make import interpreter

import reactvl as rv
from reactvl.heads import features
from reactvl.manifest import sha256_json
from reactvl.models.encoder import Encoder
from reactvl.pool.images import to_pixels

DIFFERENCES = (
    "open_clip's classifier builder, loop and transform are called as they are; its arguments are those of its "
    "training script (batch 64), with our classes and templates in the place of ImageNet's",
    "open_clip's `accuracy` is restated, because NumPy since 2.4 refuses its last step",
    "CLIP_benchmark's functions are called as its command line calls them, with amp off: the arithmetic is fp32",
    "loading models and libraries is not timed, for any of the three",
)
BATCH = 64  # the default of all three
NAME = "photographs"
TEMPLATES = ["a photo of {}.", "a blurry photo of {}.", "a close-up of {}.", "a crop of {}.", "{} seen from afar."]
SHARDS = 4


def main() -> None:
    options = measuring.parser(__doc__)
    options.add_argument("--images", type=int, default=960)
    options.add_argument("--every", type=int, default=1, help="of scikit-learn's penalties, those that are timed")
    photographs.options(options)
    given = measuring.parsed(options, {"images": 24, "every": 8})
    report = measuring.Report(
        "evaluate",
        f"zero-shot evaluation, ViT-B/32, {given.images} JPEGs of 384 px, from the loaded model to the score; the sweep of a "
        "linear probe",
        given,
        minutes=28,
        differences=DIFFERENCES,
    )
    crops = photographs.given_crops(given)
    data = task(given.cache, crops, given.images)
    home = knowing(given, crops)
    model = rv.load(home)
    work = given.cache / "evaluate"
    shutil.rmtree(work, ignore_errors=True)
    speed(report, given, data, model, home, work)
    report.note(f"{len(crops)} distinct crops in {len(classes_of(crops))} classes, {len(TEMPLATES)} templates.")
    probe_rows.rows(report, every=given.every)
    report.finish()
    shutil.rmtree(work, ignore_errors=True)


def speed(report: measuring.Report, given: argparse.Namespace, data: Path, model, home: Path, work: Path) -> None:
    """The rows of time and of equal answers."""
    python = None if given.quick else interpreter("clip-benchmark", given.cache)
    beside = {"model": str(home), "task": str(data.with_name(f"{data.name}-wds")), "batch": BATCH}
    script = measuring.HOME / "baselines" / "clip_benchmark_evaluate.py"
    counts = (0,) if given.quick else (0, 1, 2)
    trial = {workers: plainly(data, model, workers).seconds for workers in counts}
    workers = min(trial, key=trial.get)
    theirs = plainly(data, model, workers)
    seen = measuring.child([python, script], beside | {"workers": [0, 2, 4]}).answer if python else None

    def ours(name: str, pixels: Callable = to_pixels, precision: str = "fp32") -> float:
        shutil.rmtree(work / name, ignore_errors=True)  # with its features
        with mock.patch.object(features, "to_pixels", pixels):
            began = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                rv.evaluate(
                    [model], data=data.parent, tasks=[data.name], out=work / name, batch_size=BATCH, precision=precision
                )
            return time.perf_counter() - began

    exact = functools.partial(to_pixels, fast=False)
    loops: list[float] = []  # seconds of open_clip's loop alone, its classifier being made

    def baseline() -> float:
        done = plainly(data, model, workers)
        loops.append(done.seconds - done.head_seconds)
        return done.seconds

    ways = {"fp32": lambda: ours("fp32"), "pillow": lambda: ours("pillow", exact), "open_clip": baseline}
    if torch.cpu._is_avx512_bf16_supported() or torch.cuda.is_available():
        ways["bf16"] = lambda: ours("bf16", precision="bf16")
    if seen:
        best = min(seen["seconds"], key=seen["seconds"].get)
        asked = beside | {"workers": [int(best)]}
        ways["CLIP_benchmark"] = lambda: measuring.child([python, script], asked).answer["seconds"][best]
    ours("fp32")  # what is imported on the way
    rounds = {name: [] for name in ways}
    for _ in range(given.rounds):
        for name, way in ways.items():
            rounds[name].append(way())
    report.seconds |= {name: [round(value, 5) for value in values] for name, values in rounds.items()}
    each = {name: 1000 * statistics.median(values) / given.images for name, values in rounds.items()}

    names = {"fp32": "fp32", "pillow": "fp32, Pillow's pixels", "bf16": "bf16"}
    answers = {name: answered(work / name, data.name) for name in names if name in ways}
    equal = {name: sum(answers[name][image] == one for image, one in theirs.predicted.items()) for name in answers}
    same = equal["pillow"] == given.images
    for name, words in names.items():
        if name in each:
            need = None if name == "bf16" else measuring.times(1.5)
            report.row(
                f"{words}, ms an image", each[name], each["open_clip"], "ms", against="open_clip's loop", need=need,
                also=same,
            )  # fmt: skip
    alone = 1000 * statistics.median(loops) / given.images
    label = "fp32, ms an image; open_clip's without the making of its classifier"
    report.row(label, each["fp32"], alone, "ms", against="open_clip's loop alone")
    if seen:
        which = f"CLIP_benchmark {seen['versions']['clip-benchmark']}, its own environment"
        for name in ("fp32", "pillow"):
            report.row(f"{names[name]}, ms an image", each[name], each["CLIP_benchmark"], "ms", against=which)
    for name, count in equal.items():
        report.row(
            f"predictions equal to open_clip's of {given.images}, {names[name]}", count, unit="",
            need=measuring.least(given.images) if name == "pillow" else None,
        )  # fmt: skip
    notes(report, given, each, theirs, answers, workers, seen)


def notes(report: measuring.Report, given: argparse.Namespace, each, theirs, answers, workers: int, seen) -> None:
    """What the figures rest on."""
    report.facts["images/s"] = {name: round(1000 / value, 1) for name, value in each.items()}
    report.facts["top-1"] = theirs.accuracy
    for name, predicted in answers.items():
        apart = [theirs.margins[image] for image, one in theirs.predicted.items() if predicted[image] != one]
        if apart:
            report.note(
                f"{name}: {len(apart)} of {given.images} predictions differ; of these images open_clip's best two logits are at most "
                f"{max(apart):.3f} apart (of all images {theirs.typical:.2f} in the median)."
            )
    rates = ", ".join(f"{name} {1000 / value:.1f}" for name, value in each.items())
    report.note(f"Images a second: {rates}. open_clip's DataLoader had {workers} workers; top-1 {theirs.accuracy:.1%}.")
    report.note(
        "`evaluate` itself decodes by simplejpeg; the rows of Pillow's pixels put open_clip's own decoding in its place."
    )
    if seen:
        report.facts["CLIP_benchmark"] = seen | {"predicted": len(seen["predicted"])}
        agree = sum(a == b for a, b in zip(seen["predicted"], theirs.predicted.values(), strict=True))
        report.note(f"CLIP_benchmark's predictions equal open_clip's on {agree} of {given.images} images.")
    else:
        report.note(
            "CLIP_benchmark was not measured: `.venv/bin/python benchmarks/environments/make.py clip-benchmark`."
        )


class Plain:
    """What open_clip's loop gave: seconds, top-1, and by image its prediction and the distance of the best two logits."""

    def __init__(self, seconds: float, head_seconds: float, accuracy: float, names: list[str], logits: torch.Tensor):
        self.seconds, self.head_seconds, self.accuracy = seconds, head_seconds, accuracy
        best = logits.topk(2, dim=1).values
        self.predicted = dict(zip(names, logits.argmax(dim=1).tolist(), strict=True))
        self.margins = dict(zip(names, (best[:, 0] - best[:, 1]).tolist(), strict=True))
        self.typical = float((best[:, 0] - best[:, 1]).median())


def plainly(data: Path, model, workers: int) -> Plain:
    """open_clip's zero-shot evaluation of an image folder, in fp32."""
    from reactvl.clip_imports import open_clip  # first, because what follows needs torchvision to be importable

    from open_clip_train import zero_shot  # isort: skip
    from torchvision.datasets import ImageFolder  # isort: skip

    torch.set_float32_matmul_precision("highest")  # torch's default, which our own stage changes
    named = (data / "classnames.txt").read_text().splitlines()
    found: list[torch.Tensor] = []

    def recording(image: torch.Tensor):
        out = model.net(image=image)
        found.append(out["image_features"] if isinstance(out, dict) else out[0])
        return out

    args = argparse.Namespace(device="cpu", precision="fp32", batch_size=BATCH)
    with contextlib.redirect_stderr(io.StringIO()):  # its bar
        began = time.perf_counter()
        folder = ImageFolder(data / "test", transform=model.preprocess)
        loader = torch.utils.data.DataLoader(folder, batch_size=BATCH, num_workers=workers, sampler=None)
        classifier = open_clip.build_zero_shot_classifier(
            model.net, tokenizer=model.tokenize, classnames=named, templates=TEMPLATES, num_classes_per_batch=10,
            device="cpu", use_tqdm=True,
        )  # fmt: skip
        head_seconds = time.perf_counter() - began
        with mock.patch.object(zero_shot, "accuracy", hits):
            top1, _ = zero_shot.run(recording, classifier, loader, args)
        seconds = time.perf_counter() - began
    names = [str(Path(path).relative_to(data / "test")) for path, _ in folder.samples]
    return Plain(seconds, head_seconds, top1, names, 100 * torch.cat(found) @ classifier)


def hits(output: torch.Tensor, target: torch.Tensor, topk: tuple[int, ...]) -> list[float]:
    """open_clip's `accuracy`, whose last step (a float of an array of one) NumPy refuses since 2.4."""
    correct = output.topk(max(topk), dim=1).indices.eq(target.view(-1, 1))  # (N, k)
    return [float(correct[:, :k].sum()) for k in topk]


def answered(folder: Path, name: str) -> dict[str, int]:
    """The predicted class of every image of a finished evaluation."""
    table = rv.Scores(folder).predictions(name)
    return dict(zip(table["image"].to_pylist(), table["predicted"].to_pylist(), strict=True))


def task(cache: Path, crops: list[photographs.Photograph], images: int) -> Path:
    """The task's image folder, and beside it the same as CLIP_benchmark's webdataset, `-wds` behind its name. Made once."""
    key = sha256_json([images, classes_of(crops), TEMPLATES, [hashlib.sha256(crop.data).hexdigest() for crop in crops]])
    home = cache / "tasks" / f"{NAME}-{images}-{key[:8]}"
    beside = home.with_name(f"{home.name}-wds")
    if (home / "whole").exists():
        return home
    for folder in (home, beside):
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "test").mkdir(parents=True)
        (folder / "classnames.txt").write_text("".join(f"{name}\n" for name in classes_of(crops)))
        written = [template.replace("{}", "{c}") for template in TEMPLATES]
        (folder / "zeroshot_classification_templates.txt").write_text("".join(f"{text}\n" for text in written))
    samples = sorted(labelled(crops, images))
    for label, number, data in samples:
        path = home / "test" / f"{label:03d}" / f"{number:05d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    (beside / "test" / "nshards.txt").write_text(f"{SHARDS}\n")
    per_shard = -(-len(samples) // SHARDS)
    for shard in range(SHARDS):
        with tarfile.open(beside / "test" / f"{shard}.tar", "w") as file:
            for label, number, data in samples[shard * per_shard : (shard + 1) * per_shard]:
                for ext, body in (("jpg", data), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"{number:05d}.{ext}")
                    member.size = len(body)
                    file.addfile(member, io.BytesIO(body))
    (home / "whole").touch()
    return home


def labelled(crops: list[photographs.Photograph], images: int) -> Iterator[tuple[int, int, bytes]]:
    """(label, number, JPEG); with more images than crops they come again."""
    labels = {name: label for label, name in enumerate(classes_of(crops))}
    for number in range(images):
        crop = crops[number % len(crops)]
        yield labels[class_of(crop)], number, crop.data


def classes_of(crops: list[photographs.Photograph]) -> list[str]:
    return sorted({class_of(crop) for crop in crops})


def class_of(crop: photographs.Photograph) -> str:
    """The photograph that a crop is from; stand-ins have eight classes."""
    return Path(crop.source).stem if crop.source else f"blotch {int(crop.caption.split()[-1]) % 8}"


def knowing(given: argparse.Namespace, crops: list[photographs.Photograph]) -> Path:
    """A ViT-B/32 whose prompts come out near the mean of their class's crops, less the mean of all."""
    home = towers.vit_b_32(given.cache, given.quick)
    names = classes_of(crops)
    encoder = Encoder(rv.load(home), precision="fp32")
    pixels = torch.from_numpy(np.stack([to_pixels(crop.data, encoder.model.image_size) for crop in crops]))
    vectors = np.concatenate([encoder.images(some) for some in pixels.split(BATCH)])  # (crops, dim)
    vectors = vectors - vectors.mean(axis=0)
    labels = np.array([names.index(class_of(crop)) for crop in crops])
    means = np.stack([vectors[labels == label].mean(axis=0) for label in range(len(names))])  # (C, dim)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    prompts = [template.replace("{}", name) for name in names for template in TEMPLATES]
    return towers.fitted(home, prompts, np.repeat(means, len(TEMPLATES), axis=0).astype(np.float32), given.cache)


if __name__ == "__main__":
    main()
