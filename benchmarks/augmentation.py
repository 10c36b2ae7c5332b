"""Augmented training pictures a second and core: timm in Pillow, as open_clip trains, against this package's two paths.

    .venv/bin/python benchmarks/augmentation.py

On one core: JPEGs of 384 px to REACT's recipe at 224 (RandAugment m9-mstd0.5-inc1, random erasing 0.25). The baseline is
Pillow's decoding and `timm.data.create_transform`. The Pillow path is that transform after simplejpeg's decoding; of the
tensor path the worker decodes and crops, and the device (here the same core) does the rest in batches. End to end: a pool's
shards through the loader with one worker process, beside open_clip's webdataset pipeline with one.
"""

import io
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import measuring
import numpy as np
import photographs
import torch
from PIL import Image

from reactvl.clip_imports import open_clip, timm
from reactvl.pool.images import decode
from reactvl.train.augmentation import Augment, AugmentationCfg, posterize
from reactvl.train.loader import batches
from reactvl.train.order import Order
from reactvl.train.sources import open_pairs
from reactvl.train.tensor_augmentation import TensorAugment

DIFFERENCES = (
    "The baseline's end to end has open_clip 3.3.0's steps (`get_wds_dataset`: tarfile_to_samples, decode pilrgb, rename, map, "
    "to_tuple, batched, WebLoader) without its shuffle buffers, tokenizer and distributed splits",
    "timm's posterize gives black for 0 bits, as under older Pillows: under Pillow 13 it raises, and with it the baseline",
)
MODEL = SimpleNamespace(
    image_size=224,
    mean=open_clip.OPENAI_DATASET_MEAN,
    std=open_clip.OPENAI_DATASET_STD,
    resize_mode="shortest",
    interpolation="bicubic",
    config={"preprocess_cfg": {}},
)


def main() -> None:
    options = measuring.parser(__doc__, rounds=5)
    options.add_argument("--pairs", type=int, default=1440, help="pairs of the pool of the runs end to end")
    options.add_argument("--batch", type=int, default=64, help="pictures that the device takes at a time")
    photographs.options(options)
    given = measuring.parsed(options, {"pairs": 24, "batch": 8})
    question = "JPEGs of 384 px to REACT's augmentation at 224, on one core"
    report = measuring.Report("augmentation", question, given, minutes=3, differences=DIFFERENCES)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    crops = photographs.given_crops(given)
    alone(report, [crop.data for crop in crops], given)
    end_to_end(report, photographs.pool(given.cache, crops, given.pairs, max(given.pairs // 2, 1)), given)
    report.note(f"{len(crops)} distinct photographic crops, listed in photographs.json; torch with one thread.")
    report.finish()


def alone(report: measuring.Report, files: list[bytes], given) -> None:
    """Rows on the parts of the work, in this process."""
    baseline, pillow, tensor = timms(), Augment(MODEL, AugmentationCfg(), 0), TensorAugment(MODEL, AugmentationCfg(), 0)
    rounds = itertools.count()  # every round draws other parameters, the same for all ways of a kind

    def crops(epoch: int) -> torch.Tensor:
        return torch.stack([tensor.in_worker(data, epoch, at) for at, data in enumerate(files)])

    ready, samples = crops(0), np.arange(len(files))

    def on_device() -> None:
        epoch = next(rounds)
        for some in np.array_split(samples, max(len(samples) // given.batch, 1)):
            tensor.on_device(ready[some], np.full(len(some), epoch), some)

    ways = {
        "timm": lambda: [baseline(Image.open(io.BytesIO(data)).convert("RGB")) for data in files],
        "pillow": lambda: [pillow.in_worker(data, next(rounds), at) for at, data in enumerate(files)],
        "worker": lambda: crops(next(rounds)),
        "device": on_device,
        "decoded": lambda: [decode(data) for data in files],
    }
    spent = report.timed(ways, given.rounds)
    each = {name: 1000 * seconds / len(files) for name, seconds in spent.items()}
    report.row("Pillow path", each["pillow"], each["timm"], "ms", against="timm", need=measuring.within(1.0))
    report.row("tensor path, worker", each["worker"], each["timm"], "ms", against="timm", need=measuring.times(2))
    report.row("tensor path, device on this CPU", each["device"], each["timm"], "ms", against="timm")
    both = each["worker"] + each["device"]
    report.row("tensor path, both on one core", both, each["timm"], "ms", against="timm")
    report.row("decoding alone, the limit of a worker", each["decoded"], each["timm"], "ms", against="timm")
    for label, name in (("timm", "timm"), ("Pillow path", "pillow"), ("tensor path, worker", "worker")):
        report.row(f"pictures a second and core, {label}", 1000 / each[name], unit="pictures/s")


def end_to_end(report: measuring.Report, pool: Path, given) -> None:
    """Rows from shards to the model's input, one worker process, on this one core."""
    pairs = open_pairs(str(pool), work=given.cache / "augmentation")
    order = Order(len(pairs), given.batch, 0)
    steps, turn = max(len(pairs) // given.batch, 1), itertools.count()
    made = {"pillow": Augment(MODEL, AugmentationCfg(), 0), "tensor": TensorAugment(MODEL, AugmentationCfg(), 0)}

    def loaded(name: str) -> int:
        first = next(turn) * steps
        plan = (list(zip(*(part.tolist() for part in order.step(first + at)), strict=True)) for at in range(steps))
        return sum(
            len(made[name].on_device(batch.pixels, batch.epochs, batch.samples))
            for batch in batches(pairs, made[name], plan, 1)
        )

    ways = {name: (lambda name=name: loaded(name)) for name in made}
    ways["open_clip"] = lambda: sum(len(batch) for batch in open_clips(sorted(pool.glob("*.tar")), given.batch))
    spent = report.timed(ways, given.rounds, prefix="end to end, ")
    each = {name: 1000 * seconds / (steps * given.batch) for name, seconds in spent.items()}
    for label, name in (("Pillow path", "pillow"), ("tensor path", "tensor")):
        report.row(f"shards to input, {label}", each[name], each["open_clip"], "ms", against="open_clip's pipeline")


def timms():
    """REACT's transform as its command line makes it; the one operation that raises under Pillow 13 is mended."""
    made = timm.data.create_transform(
        (3, 224, 224), is_training=True, mean=MODEL.mean, std=MODEL.std, re_mode="pixel", scale=(0.08, 1.0),
        ratio=(0.75, 1.3333333), hflip=0.5, interpolation="bicubic", color_jitter=0.4, re_prob=0.25, re_count=1,
        auto_augment="rand-m9-mstd0.5-inc1",
    )  # fmt: skip
    for op in next(step for step in made.transforms if hasattr(step, "ops")).ops:
        if op.name == "PosterizeIncreasing":
            op.aug_fn = posterize
    return made


def open_clips(shards: Iterable[Path], batch: int) -> Iterator[torch.Tensor]:
    """Batches of pictures by webdataset, as open_clip puts it together."""
    import webdataset as wds

    transform = timms()
    pipeline = wds.DataPipeline(
        wds.SimpleShardList([str(shard) for shard in shards]),
        wds.split_by_worker,
        wds.tarfile_to_samples(),
        wds.decode("pilrgb"),
        wds.rename(image="jpg;png;jpeg;webp", text="txt"),
        wds.map_dict(image=transform, text=str),
        wds.to_tuple("image", "text"),
        wds.batched(batch, partial=False),
    )
    for pictures, _ in wds.WebLoader(pipeline, batch_size=None, shuffle=False, num_workers=1):
        yield pictures


if __name__ == "__main__":
    main()
