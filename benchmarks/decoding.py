"""Decoding and preprocessing: how much faster than open_clip's Pillow path, and what does it change?

    .venv/bin/python benchmarks/decoding.py

On one core: JPEGs of 384 px to 224, from the file's bytes to uint8 pixels. Ours is simplejpeg's array through torch's
antialiased uint8 resize (pool/images.py); the baseline is the same module's reference path, which is open_clip's
transform bit for bit. Then the pixels of both are compared, and the predictions that the demo's base model makes of them
on the demo's labelled pictures, turned into JPEGs: of their own size, and of 384 px, so that they are resized.
"""

import io
import os
from pathlib import Path

import measuring
import numpy as np
import photographs
import torch
from PIL import Image

import reactvl as rv
from reactvl import tasks
from reactvl.pool.images import decode_jpeg, to_pixels

DEMO = Path(__file__).parents[1] / "demo"
SIZE = 224


def main() -> None:
    options = measuring.parser(__doc__, rounds=7)
    options.add_argument("--pictures", type=int, default=827, help="labelled pictures of the demo that are predicted")
    photographs.options(options)
    given = measuring.parsed(options, {"pictures": 12})
    report = measuring.Report("decoding", "JPEGs of 384 px to uint8 pixels of 224, on one core", given, minutes=1.5)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    crops = [crop.data for crop in photographs.given_crops(given)]
    ways = {
        "fast": lambda: [to_pixels(data, SIZE) for data in crops],
        "pillow": lambda: [to_pixels(data, SIZE, fast=False) for data in crops],
        "decoded": lambda: [decode_jpeg(data) for data in crops],
    }
    rates = {name: len(crops) / spent for name, spent in report.timed(ways, given.rounds).items()}
    seconds = {name: 1000 / rate for name, rate in rates.items()}
    report.row("an image", seconds["fast"], seconds["pillow"], "ms", against="Pillow", need=measuring.times(2.5))
    report.row("decoding alone, the limit", seconds["decoded"], seconds["pillow"], "ms", against="Pillow")

    deviations = [np.abs(fast.astype(int) - slow) for fast, slow in zip(ways["fast"](), ways["pillow"](), strict=True)]
    report.row(
        "largest deviation of a value", float(max(map(np.max, deviations))), unit="of 255", need=measuring.most(2)
    )
    report.row("mean deviation", float(np.mean([one.mean() for one in deviations])), unit="of 255")
    report.note(f"{len(crops)} distinct photographic crops, listed in photographs.json.")
    predicted(report, given.pictures)
    report.finish()


def predicted(report: measuring.Report, count: int) -> None:
    """Rows on equal predictions of the demo's base model."""
    model = rv.load(str(DEMO / "base"))
    how = {"resize_mode": model.resize_mode, "interpolation": model.interpolation}
    for side in (None, 384):
        equal, margins, left = 0, [], count
        for task in tasks.find(None, DEMO / "tasks"):
            samples = task.samples("test")
            files = [as_jpeg(samples.read(at), side) for at in range(min(len(samples), left))]
            if not files:
                continue
            left -= len(files)
            classifier = model.classifier(task.classes, task.templates)
            fast, slow = (
                classifier.probabilities(
                    torch.from_numpy(np.stack([to_pixels(data, model.image_size, fast=way, **how) for data in files]))
                )
                for way in (True, False)
            )
            same = fast.argmax(axis=1) == slow.argmax(axis=1)
            best = np.sort(slow, axis=1)
            equal += int(same.sum())
            margins += (best[:, -1] - best[:, -2])[~same].tolist()
        shown = "their own size" if side is None else f"{side} px"
        report.row(
            f"equal predictions, the demo's pictures as JPEGs of {shown}",
            equal / (count - left),
            unit="share",
            need=measuring.least(1.0),
        )
        if margins:
            report.note(
                f"At {shown} {len(margins)} of {count - left} predictions change; by Pillow's pixels their best two "
                f"classes are at most {max(margins):.3f} apart."
            )


def as_jpeg(data: bytes, side: int | None) -> bytes:
    image, file = Image.open(io.BytesIO(data)).convert("RGB"), io.BytesIO()
    (image if side is None else image.resize((side, side))).save(file, "JPEG", quality=90)
    return file.getvalue()


if __name__ == "__main__":
    main()
