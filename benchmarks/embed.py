"""From a pool to embeddings with ViT-B/32: images and captions a second, against open_clip as clip-retrieval uses it.

    .venv/bin/python benchmarks/environments/make.py clip-retrieval
    .venv/bin/python benchmarks/embed.py

The baseline is what clip-retrieval's reader, mapper and writer do (webdataset, Pillow, open_clip's transform and
tokenizer in DataLoader workers; the model in fp32, captions padded to 77 tokens; float16 npy and parquet), run in our
environment on the same torch, with the best of 0, 1 and 2 workers. Where its environment is made, clip-retrieval itself
is measured too. Weights are random and equal everywhere: speed does not depend on them. Loading models and libraries is
not timed.
"""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import measuring
import numpy as np
import photographs
import torch
import towers
from environments.make import interpreter

import reactvl as rv
from reactvl.models.encoder import Encoder
from reactvl.pool.images import picture
from reactvl.pool.tars import scan

DIFFERENCES = (
    "clip-retrieval's loop restated: default_collate of webdataset's samples, one model call for the images and one for "
    "the captions of a batch, float16 npy files and a parquet file at the end",
    "no logger process, no wandb, no partition count; the reader's torch workers are those that serve it best here",
    "the weights are random, of a seed (clip-retrieval itself: its load_clip is replaced for that reason)",
)
BATCH = 256  # clip-retrieval's default


def main() -> None:
    options = measuring.parser(__doc__)
    options.add_argument("--pairs", type=int, default=480)
    options.add_argument("--shard-pairs", type=int, default=240)
    photographs.options(options)
    given = measuring.parsed(options, {"pairs": 12, "shard_pairs": 6})
    report = measuring.Report(
        "embed",
        f"pool to embeddings, ViT-B/32, {given.pairs} JPEGs of 384 px with captions",
        given,
        minutes=7,
        differences=DIFFERENCES,
    )
    crops = photographs.given_crops(given)
    pool = photographs.pool(given.cache, crops, given.pairs, given.shard_pairs)
    home = towers.vit_b_32(given.cache, given.quick)
    model = rv.load(home)
    work = given.cache / "embed"
    shutil.rmtree(work, ignore_errors=True)
    workers = best_workers(pool, model, work) if not given.quick else 0

    def ours(name: str, **asked) -> None:
        rv.embed(str(pool), model, out=work / name, batch_size=128, overwrite=True, **asked)

    def fresh(name: str, **asked):
        return lambda: (shutil.rmtree(work / name, ignore_errors=True), ours(name, **asked))

    ways = {
        "fp32": fresh("fp32", precision="fp32"),
        "open_clip": lambda: plainly(pool, model, workers, work / "open_clip"),
    }
    if torch.cpu._is_avx512_bf16_supported() or torch.cuda.is_available():
        ways["bf16"] = fresh("bf16", precision="bf16")
    rate = given.pairs
    seconds = report.timed(ways, given.rounds)
    ours("pillow", precision="fp32", fast_images=False)
    theirs = [np.load(work / "open_clip" / f"{side}.npy").astype(np.float64) for side in ("image", "text")]
    apart = {name: furthest(work / name, theirs) for name in ("fp32", "pillow", "bf16") if (work / name).exists()}
    equal = max(apart["pillow"]) < 1e-5
    against = "open_clip as clip-retrieval uses it"
    report.row(
        "fp32, ms a pair",
        1000 * seconds["fp32"] / rate,
        1000 * seconds["open_clip"] / rate,
        "ms",
        against=against,
        need=measuring.times(2),
        also=equal,
    )
    if "bf16" in ways:
        report.row(
            "bf16, ms a pair",
            1000 * seconds["bf16"] / rate,
            1000 * seconds["open_clip"] / rate,
            "ms",
            against=against,
            need=measuring.times(4),
        )
    words = {"fp32": "fp32", "pillow": "fp32, Pillow's pixels", "bf16": "bf16"}
    for name, (images, texts) in apart.items():
        report.row(
            f"largest 1 - cos of images, {words[name]}",
            images,
            unit="",
            need=measuring.most(1e-5) if name == "pillow" else None,
        )
        report.row(
            f"largest 1 - cos of captions, {words[name]}",
            texts,
            unit="",
            need=measuring.most(1e-5) if name == "pillow" else None,
        )

    shares(report, given, pool, model, [name for name in ("fp32", "bf16") if name in seconds], fresh)
    itself(report, given, pool, home, work, seconds)
    report.note(
        f"The baseline's DataLoader had {workers} workers. {len(crops)} distinct crops, all captions different."
    )
    report.finish()
    shutil.rmtree(work)


def furthest(folder: Path, theirs: list[np.ndarray]) -> tuple[float, float]:
    """The largest 1 - cos of images and of captions, over the pairs in the order of the shards."""
    parts = rv.Embeddings(folder).parts
    found = []
    for side, other in zip(("images", "texts"), theirs, strict=True):
        mine = np.concatenate([getattr(part, side)() for part in parts]).astype(np.float64)
        norms = np.linalg.norm(mine, axis=1) * np.linalg.norm(other, axis=1)
        found.append(float((1 - (mine * other).sum(axis=1) / norms).max()))
    return found[0], found[1]


def shares(report: measuring.Report, given, pool: Path, model, precisions: list[str], fresh) -> None:
    """The stage against its parts alone, in turns and each warmed up: decoding on all cores, and the model on decoded
    pixels."""
    samples = [(path, sample) for path in sorted(pool.glob("*.tar")) for sample in scan(path)]
    bodies = [path.read_bytes()[sample.offset : sample.offset + sample.size] for path, sample in samples]
    captions = [sample.caption for _, sample in samples]
    cores = torch.get_num_threads()

    def decode() -> np.ndarray:
        with ThreadPoolExecutor(cores) as threads:
            return np.stack([each.pixels for each in threads.map(lambda body: picture(body, model.image_size), bodies)])

    pixels = torch.from_numpy(decode())
    for precision in precisions:
        encoder = Encoder(model, precision=precision)

        def run(encoder=encoder) -> None:
            for first in range(0, len(pixels), 128):
                encoder.images(pixels[first : first + 128])
            for first in range(0, len(captions), given.shard_pairs):
                encoder.texts(captions[first : first + given.shard_pairs])

        ways = {"decode": decode, "model": run, "stage": fresh("warm", precision=precision)}
        first = report.timed(ways, 1, f"{precision}, first time: ")
        spent = report.timed(ways, given.rounds, f"{precision} ")
        rates = {name: given.pairs / value for name, value in spent.items()}
        report.row(
            f"{precision}: rate of the slower part alone, pairs/s; the stage's beside it",
            min(rates["decode"], rates["model"]),
            rates["stage"],
            "pairs/s",
            against="the whole stage",
            need=measuring.Need("the stage at least 0.9 of it", lambda slower, stage: stage >= 0.9 * slower),
        )
        report.row(f"{precision}: set-up, once a run (weights are packed)", first["stage"] - spent["stage"], unit="s")
        report.facts[f"{precision} alone, pairs/s"] = {
            name: round(rate, 1) for name, rate in rates.items() if name != "stage"
        }


def best_workers(pool: Path, model, work: Path) -> int:
    """The number of DataLoader workers with which the baseline is fastest, on some of the pairs."""
    shards = len(list(pool.glob("*.tar")))
    ways = {
        count: (lambda count=count: plainly(pool, model, count, work / "trial", limit=96))
        for count in (0, 1, 2)
        if count <= shards
    }
    spent = measuring.in_turns(ways, 1)
    return min(spent, key=lambda count: spent[count])


def plainly(pool: Path, model, workers: int, out: Path, limit: int | None = None) -> None:
    """clip-retrieval's inference on the shards, in fp32."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq
    import webdataset as wds
    from PIL import Image
    from torch.utils.data import DataLoader

    torch.set_float32_matmul_precision("highest")  # torch's default, which our own stage changes

    def prepared(item: dict) -> dict:
        caption = item["txt"].decode()
        image = model.preprocess(Image.open(io.BytesIO(item["jpg"])))
        return {"key": item["__key__"], "image": image, "tokens": model.tokenize([caption])[0], "text": caption}

    urls = [str(path) for path in sorted(pool.glob("*.tar"))]
    splitter = wds.split_by_worker if workers else None
    dataset = wds.WebDataset(urls, shardshuffle=False, workersplitter=splitter)
    dataset = (dataset.slice(limit // max(1, workers)) if limit else dataset).map(prepared)
    loader = DataLoader(
        dataset, batch_size=BATCH, shuffle=False, num_workers=workers, prefetch_factor=2 if workers else None
    )
    images, texts, keys, captions = [], [], [], []
    for batch in loader:
        with torch.no_grad():
            for side, encode, given in (
                (images, model.net.encode_image, "image"),
                (texts, model.net.encode_text, "tokens"),
            ):
                features = encode(batch[given])
                features /= features.norm(dim=-1, keepdim=True)
                side.append(features.cpu().to(torch.float16).numpy())
        keys += batch["key"]
        captions += batch["text"]
    out.mkdir(parents=True, exist_ok=True)
    order = np.argsort(np.array(keys), kind="stable")  # several workers deliver shards in turns
    for side, vectors in (("image", images), ("text", texts)):
        np.save(out / f"{side}.npy", np.concatenate(vectors)[order])
    pq.write_table(pa.table({"image_path": keys, "caption": captions}), out / "metadata.parquet")


def itself(report: measuring.Report, given, pool: Path, home: Path, work: Path, seconds: dict[str, float]) -> None:
    """clip-retrieval's own worker in its environment, where that is made."""
    python = interpreter("clip-retrieval", given.cache)
    if python is None or given.quick:
        report.note(
            "clip-retrieval itself was not measured: `.venv/bin/python benchmarks/environments/make.py clip-retrieval`."
        )
        return
    asked = {
        "pool": str(pool),
        "model": str(home),
        "out": str(work / "clip-retrieval"),
        "workers": [0, 2],
        "batch": BATCH,
    }
    done = measuring.child([python, measuring.HOME / "baselines" / "clip_retrieval_embed.py"], asked).answer
    label = "fp32, ms a pair; clip-retrieval itself, its own environment"
    report.row(
        label,
        1000 * seconds["fp32"] / given.pairs,
        1000 * min(done["seconds"].values()) / given.pairs,
        "ms",
        against=f"clip-retrieval {done['versions']['clip-retrieval']}",
    )
    report.facts["clip-retrieval"] = done


if __name__ == "__main__":
    main()
