"""From class names to chosen pairs, the whole stage: time and memory. Against the released code's loop.

    .venv/bin/python benchmarks/environments/make.py autofaiss
    .venv/bin/python benchmarks/retrieve_stage.py

25 classes x 80 templates through ViT-B/32's text tower (random weights, its projection fitted so that a class's prompts
lie at one place of the mixture), k = 200 a prompt, at most 200 pairs a class. The released code searches HNSW32 at FAISS's
default efSearch, on the GPU's queries one class at a time; ours searches exactly by default. Both are processes of their
own, loading included; memory is a process's own (anonymous), beside the resident peak, which holds the mapped pages of
the vectors that the kernel may take back.
"""

import shutil
import statistics
import sys
from pathlib import Path

import indexes
import measuring
import numpy as np
import towers
import vectors

import reactvl as rv
from reactvl.tasks.templates import prompt, read_templates

NAMES = """
red panda, grand piano, ferry, wheelchair, lighthouse, saxophone, strawberry, wild cat
sunflower, chandelier, laptop, rooster, dragonfly, pagoda, stop sign, umbrella
windsor chair, water lily, cannon, soccer ball, helicopter, crayfish, butterfly, metronome
yin yang, barrel, starfish, schooner, stapler, trilobite, ketch, gramophone
hedgehog, euphonium, ibis, okapi, pizza, pyramid, scissors, tick
"""
DIFFERENCES = (
    "the model is open_clip's on the CPU in fp32 (released: OpenAI's package on CUDA in fp16), with random weights",
    "the file list is read from the metadata (released: a pickle)",
    "the pictures are not copied (pool_access.py measures that), and no progress is shown",
    "class names are plain texts; templates hold `{}`",
)


def main() -> None:
    options = measuring.parser(__doc__)
    indexes.options(options)
    options.add_argument("--classes", type=int, default=25)
    options.add_argument("--k", type=int, default=200, help="of each prompt, and pairs a class at most")
    options.add_argument("--sizes", type=int, nargs="*", default=[100_000, 300_000], help="smaller pools, for memory")
    small = {"rows": 20_000, "classes": 2, "k": 20, "sizes": [10_000], "memory": "400MB", "quarter": "100MB"}
    given = measuring.parsed(options, small)
    report = measuring.Report(
        "retrieve_stage",
        f"{given.classes} classes x 80 templates to chosen pairs, {given.rows:,} pairs in the pool",
        given,
        minutes=7,
        differences=DIFFERENCES,
    )
    classes, templates = names(given.classes), read_templates("openai")
    mixture = vectors.Mixture(given.rows)
    data = vectors.Data("mixture", vectors.written(mixture, given.cache), mixture)
    home = fitted(given, mixture, classes, templates)
    model = rv.load(home).id
    work = given.cache / "retrieve-stage"
    embeddings = vectors.adopted(data.embeddings, model, work / f"embeddings-{given.rows}")
    asked = {
        "classes": classes,
        "templates": templates,
        "k": given.k,
        "model": str(home),
        "embeddings": str(embeddings.folder),
    }
    compare(report, given, data, asked, work)
    memory(report, given, model, asked, work)
    report.finish()
    shutil.rmtree(work)


def names(count: int) -> list[str]:
    every = [name.strip() for name in NAMES.replace("\n", ", ").split(",") if name.strip()]
    if count > len(every):
        raise SystemExit(f"--classes: at most {len(every)}")
    return every[:count]


def fitted(given, mixture: vectors.Mixture, classes: list[str], templates: list[str]) -> Path:
    some = templates[:: max(1, len(templates) // 20)]
    prompts = [prompt(template, name) for name in classes for template in some]
    wanted = np.repeat(mixture.queries(len(classes), "text", seed=3), len(some), axis=0)
    return towers.fitted(towers.vit_b_32(given.cache, given.quick), prompts, wanted, given.cache)


def retrieved(asked: dict, out: Path, **more) -> measuring.Child:
    """`retrieve` in a process of its own, afresh."""
    shutil.rmtree(out, ignore_errors=True)
    arguments = {
        "embeddings": asked["embeddings"],
        "classes": asked["classes"],
        "templates": asked["templates"],
        "per_class": asked["k"],
        "per_prompt": asked["k"],
        "model": asked["model"],
        "out": str(out),
        **more,
    }
    return measuring.child([sys.executable, indexes.STAGES], {"stage": "retrieve", "arguments": arguments})


def compare(report: measuring.Report, given, data: vectors.Data, asked: dict, work: Path) -> None:
    """Ours in its ways and the released loop, in turns."""
    known = indexes.peer("autofaiss", given, data)
    loop = measuring.HOME / "baselines" / "released_retrieve.py"
    ways = {
        "ours": lambda: retrieved(asked, work / "pictures", modes=["t2i"]),
        "both": lambda: retrieved(asked, work / "both"),
        "released": lambda: measuring.child(
            [sys.executable, loop], {**asked, "index": known["index"], "out": str(work / "released")}
        ),
    }
    runs: dict[str, list[measuring.Child]] = {name: [] for name in ways}
    for _ in range(given.rounds):
        for name, way in ways.items():
            runs[name].append(way())
    median = {name: statistics.median(run.wall for run in each) for name, each in runs.items()}
    report.seconds |= {name: [round(run.wall, 2) for run in each] for name, each in runs.items()}
    against = f"the released loop ({known['key']}, efSearch 16)"
    report.row(
        "captions' towers and pictures searched exactly (t2i), process",
        median["ours"],
        median["released"],
        against=against,
    )
    report.row(
        "pictures and captions (t2i and t2t, the default), process", median["both"], median["released"], against=against
    )
    own = {name: statistics.median(run.own for run in each) for name, each in runs.items()}
    report.row("memory of its own, t2i", own["ours"], own["released"], "MiB", against=against)
    queries, rows = np.load(work / "released" / "queries.npy"), np.load(work / "released" / "rows.npy")
    some = np.linspace(0, len(queries) - 1, min(400, len(queries))).astype(int)
    true = indexes.truth(data, queries[some], given.k)
    report.row(f"recall@{given.k} of the prompts", 1.0, vectors.found_share(rows[some], true), "share", against=against)
    last = runs["released"][-1].answer
    report.facts |= {
        "pairs": {"ours": runs["ours"][-1].answer["counts"], "released": last["pairs"]},
        "released": {name: round(last[name], 2) for name in ("loading", "loop")},
        "ours": runs["ours"][-1].answer["timing"],
    }


def memory(report: measuring.Report, given, model, asked: dict, work: Path) -> None:
    """Peak memory over pools of several sizes."""
    peaks = {}
    for rows in [*given.sizes, given.rows]:
        folder = work / f"embeddings-{rows}"
        if rows != given.rows:
            vectors.adopted(vectors.written(vectors.Mixture(rows), given.cache), model, folder)
        done = retrieved(asked | {"embeddings": str(folder)}, work / f"memory-{rows}")
        peaks[rows] = done.own, done.peak
        report.row(f"peak memory of its own, {rows:,} pairs", done.own, unit="MiB")
        report.row(f"peak resident with the vectors' mapped pages, {rows:,} pairs", done.peak, unit="MiB")
    least = min(peaks)
    report.row(
        f"growth of its own memory from {least:,} to {given.rows:,} pairs",
        peaks[given.rows][0] / peaks[least][0],
        unit="times",
        need=measuring.most(1.1),
    )
    report.facts["peak MiB (own, resident)"] = {
        str(rows): [round(value) for value in both] for rows, both in peaks.items()
    }


if __name__ == "__main__":
    main()
