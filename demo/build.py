"""Builds the demo's embedded data, a pool of image-text pairs and four tasks, from packages, and checks it.

    .venv/bin/python demo/build.py --out demo        # 3 minutes on two cores; 165 MB fetched at first

The pool is laid out as img2dataset lays it (`pool/NNNNN.tar.xz`), in three parts, in the order of the shards:
    A           openclipart and one style of emoji: what the base model is trained on
    B           other styles of the same emoji: what retrieval finds besides
    validation  a style by which settings are chosen, left out of training
The tasks (`tasks/NAME/test`) hold pictures of styles that are nowhere in the pool, `tasks/NAME/val` the validation
style's. The same packages give the same bytes. What must hold (sizes, shares, nothing held out in the pool) is
asserted here and tested in tests/demo.
"""

import argparse
import hashlib
import io
import json
import random
import shutil
from collections import Counter
from multiprocessing import Pool
from pathlib import Path

import classes
import drawing
import numpy as np
import shards
import sources
from captions import Writer, contains_name
from near_copies import Nearest, Signed, draw_pairs, nearest_in_pool
from PIL import Image
from shards import Sample

SEED = 17
PART_A = ("openclipart", "twemoji")
PART_B = ("fluent-emoji-flat", "fluent-emoji-3d", "emojione", "emojione-v1")
VALIDATION = "noto"
SHARD_COUNTS = {"part_a": 6, "part_b": 4, "validation": 1}
DUPLICATES = 0.025  # of a part's pairs are another pair's picture, byte for byte, with another caption
CORRUPT = (("part_a", 0), ("part_a", 0.35), ("part_a", 0.7), ("part_b", 40), ("part_b", 0.5))  # kept share or bytes
CLIPART_CAPS = {"shapes/stars": 110}  # 1,378 of openclipart's files are stars with other numbers of points
CLIPART_CAP = 450
HOSTS = ("clipcorner", "iconbarn", "vectorpond", "stickernest", "freedrawings", "pixelattic", "emojiindex", "artbin")


def build(out: Path, cache: Path, processes: int, pairs: Path | None = None) -> None:
    """Everything under `out` that this script owns, anew; `pairs` gets a picture of the pairs about the limits."""
    emoji, pictures = sources.load(cache)
    pictures["openclipart"] = choose_cliparts(pictures["openclipart"])
    tasks = classes.tasks()
    class_of = class_of_emoji(emoji, tasks)
    with Pool(processes) as workers:
        parts, signatures, relevance = make_pool(emoji, pictures, class_of, workers)
        drawings = draw_tasks(pictures, class_of, workers)
    held_out, nearest = drop_near_copies(drawings, signatures)

    for old in ("pool", "tasks"):
        shutil.rmtree(out / old, ignore_errors=True)
    write_pool(out, parts)
    write_tasks(out, tasks, held_out, drawings[VALIDATION])
    (out / "classes.txt").write_text("".join(f"{name}\n" for names in tasks.values() for name in names))
    (out / "relevance.json").write_text(json.dumps(relevance, indent=1, sort_keys=True, ensure_ascii=False) + "\n")

    check_pool(parts, tasks, relevance)
    check_tasks(tasks, class_of, pictures, held_out)
    report_near_copies(nearest)
    if pairs:
        draw_pairs(nearest, pairs)


def choose_cliparts(pictures: list[sources.Picture]) -> list[sources.Picture]:
    """For variety no folder fills the pool; which of a folder's files stay is decided by the hash of their names."""
    kept, taken = [], Counter()
    for p in sorted(pictures, key=lambda p: hashlib.sha256(p.slug.encode()).digest()):
        folder = p.slug.rsplit("/", 1)[0]
        taken[folder] += 1
        if taken[folder] <= CLIPART_CAPS.get(folder, CLIPART_CAP):
            kept.append(p)
    return sorted(kept, key=lambda p: p.slug)


def class_of_emoji(emoji: dict[str, sources.Emoji], tasks: dict) -> dict[str, tuple[str, str]]:
    """Hexcode -> (task, class name)."""
    by_label = {e.label: code for code, e in emoji.items()}
    return {
        by_label[x]: (task, name) for task, names in tasks.items() for name, labels in names.items() for x in labels
    }


def make_pool(emoji, pictures, class_of, workers) -> tuple[dict[str, list[Sample]], list[Signed], dict]:
    """The parts' samples in their final order, the signature of every pool picture, and source -> slug -> class."""
    writer = Writer(emoji, {code: name for code, (_, name) in class_of.items()}, pictures["openclipart"], SEED)
    parts, signatures, relevance = {}, [], {}
    for part, names in (("part_a", PART_A), ("part_b", PART_B), ("validation", (VALIDATION,))):
        chosen = [p for name in names for p in pictures[name]]
        drawn = workers.imap(draw_for_pool, chosen, chunksize=32)
        kept = [(p, *d) for p, d in zip(chosen, drawn, strict=True) if d is not None]
        signatures += [Signed(p.source, p.slug, p.hexcode, signature) for p, _, signature in kept]
        for p, _, _ in kept:
            name = class_of.get(p.hexcode, ("", None))[1] if p.hexcode else classes.clipart_class(p.slug)
            if name:
                relevance.setdefault(p.source, {})[p.slug] = name
        rng = random.Random(f"{SEED}/{part}")
        samples = [make_sample(p, encoded, writer, 0) for p, encoded, _ in kept]
        again = rng.sample(kept, round(len(kept) * DUPLICATES / (1 - DUPLICATES)))
        samples += [make_sample(p, encoded, writer, 1) for p, encoded, _ in again]
        rng.shuffle(samples)
        spoil(samples, [keep for where, keep in CORRUPT if where == part], {p.slug for p, _, _ in again}, rng)
        parts[part] = samples
    return parts, signatures, relevance


def make_sample(picture: sources.Picture, encoded: drawing.Encoded, writer: Writer, copy: int) -> Sample:
    host = random.Random(f"{SEED}/{picture.source}/{picture.slug}/host/{copy}").choice(HOSTS)
    return Sample(
        source=picture.source,
        slug=picture.slug,
        image=encoded.data,
        ext=encoded.ext,
        caption=writer.write(picture, copy).text,
        url=f"https://{host}.example/{picture.source}/{picture.slug}.{encoded.ext}",
        size=(encoded.width, encoded.height),
        original_size=(encoded.original_width, encoded.original_height),
    )


def spoil(samples: list[Sample], keeps: list[float], spared: set[str], rng: random.Random) -> None:
    """Cut some images short, as broken downloads are: to a share of their bytes, or to so many bytes."""
    whole = [s for s in samples if s.slug not in spared and s.ext != "png"]
    for sample, keep in zip(rng.sample(whole, len(keeps)), keeps, strict=True):
        sample.image = sample.image[: int(len(sample.image) * keep) if keep < 1 else int(keep)]
        sample.corrupt = True


def draw_tasks(pictures, class_of, workers) -> dict[str, list[tuple[Signed, tuple[str, str], bytes]]]:
    """Style -> (drawing, (task, class), webp) of every picture of a class, in held-out and validation styles."""
    drawings = {}
    for style in (*sources.HELD_OUT_STYLES, VALIDATION):
        chosen = [p for p in pictures[style] if p.hexcode in class_of]
        drawn = workers.imap(drawing.draw_for_task, chosen, chunksize=16)
        drawings[style] = [
            (Signed(p.source, p.slug, p.hexcode, d[1]), class_of[p.hexcode], d[0])
            for p, d in zip(chosen, drawn, strict=True)
            if d is not None
        ]
    return drawings


def drop_near_copies(drawings, pool: list[Signed]) -> tuple[list, list[Nearest]]:
    """The held-out drawings of which the pool has no near copy, and what the pool has nearest to each."""
    rows = [row for style in sources.HELD_OUT_STYLES for row in drawings[style]]
    nearest = nearest_in_pool([row[0] for row in rows], pool)
    return [row for row, near in zip(rows, nearest, strict=True) if not near.copied], nearest


def write_pool(out: Path, parts: dict[str, list[Sample]]) -> None:
    """The shards and their index."""
    index, rows, first = {}, [], 0
    for part, samples in parts.items():
        count = SHARD_COUNTS[part]
        for i, chunk in enumerate(np.array_split(np.arange(len(samples)), count)):
            inside = [samples[j] for j in chunk]
            rows.append((first + i, len(inside), shards.write_pool_shard(out / "pool", first + i, inside)))
        last = first + count - 1
        index[part] = f"{{{first:05d}..{last:05d}}}.tar" if count > 1 else f"{first:05d}.tar"
        first += count
    everything = [s for samples in parts.values() for s in samples]
    lines = [
        "# Written by demo/build.py: what pool/ holds.",
        f"shards = {first}",
        f"pairs = {len(everything)}",
        *(f'{part} = "{names}"' for part, names in index.items()),
        f"corrupt = {json.dumps([s.key for s in everything if s.corrupt])}  # keys of images cut short on purpose",
        "",
        "[sources]",
        *(f"{source} = {n}" for source, n in sorted(Counter(s.source for s in everything).items())),
        *(f'\n[[shard]]\nname = "{i:05d}.tar"\npairs = {n}\nsha256 = "{digest}"' for i, n, digest in rows),
    ]
    (out / "pool.toml").write_text("\n".join(lines) + "\n")


def write_tasks(out: Path, tasks: dict, held_out: list, validation: list) -> None:
    """The tasks in CLIP_benchmark's webdataset layout, samples in the order of class, source and slug."""
    for task, names in tasks.items():
        folder, label = out / "tasks" / task, {name: i for i, name in enumerate(names)}
        for split, rows in (("test", held_out), ("val", validation)):
            samples = [(s.source, s.slug, label[name], webp) for s, (where, name), webp in rows if where == task]
            shards.write_task_shard(folder / split, sorted(samples, key=lambda s: (s[2], s[0], s[1])))
        (folder / "classnames.txt").write_text("".join(f"{name}\n" for name in names))
        (folder / "zeroshot_classification_templates.txt").write_text("".join(f"{t}\n" for t in classes.TEMPLATES))


def check_pool(parts: dict[str, list[Sample]], tasks: dict, relevance: dict) -> None:
    """Assert and print the pool's counts and shares."""
    everything = [s for samples in parts.values() for s in samples]
    by_source = Counter(s.source for s in everything)
    print(f"pool: {len(everything):,} pairs;", ", ".join(f"{k} {v:,}" for k, v in by_source.items()))
    assert 12_000 <= len(everything) <= 15_000 and by_source["openclipart"] >= 5_000
    assert not set(by_source) & set(sources.HELD_OUT_STYLES)
    task_of = {name: task for task, names in tasks.items() for name in names}
    for part, samples in parts.items():
        named = [(s, relevance.get(s.source, {}).get(s.slug)) for s in samples]
        relevant = [(s, name) for s, name in named if name]
        silent = sum(not contains_name(name, s.caption) for s, name in relevant) / len(relevant)
        per_task = Counter(task_of[name] for _, name in relevant)
        counts = f"{len(samples):,} pairs, {len(relevant):,} relevant {dict(per_task)}"
        print(f"  {part}: {counts}, {silent:.0%} silent on the class")
    named = [(s, relevance.get(s.source, {}).get(s.slug)) for s in everything]
    relevant = [(s, name) for s, name in named if name]
    for task, n in Counter(task_of[name] for _, name in relevant).items():
        print(f"  {task}: {n} relevant pairs, {n / len(everything):.1%} of the pool")
        assert n <= 0.10 * len(everything)
    silent = sum(not contains_name(name, s.caption) for s, name in relevant) / len(relevant)
    gaps = sum(not s.caption for s in everything) / len(everything)
    repeated = 1 - len({s.image for s in everything}) / len(everything)
    print(f"  relevant captions without the class name {silent:.1%}, no caption {gaps:.1%}, repeats {repeated:.1%}")
    print("  file types", dict(Counter(s.ext for s in everything)))
    assert silent >= 0.30 and 0.01 <= gaps <= 0.03 and 0.02 <= repeated <= 0.03
    broken = [s.key for s in everything if not decodes(s.image)]
    assert broken == [s.key for s in everything if s.corrupt], broken
    print(f"  images cut short: {', '.join(broken)}")


def check_tasks(tasks: dict, class_of: dict, pictures: dict, held_out: list) -> None:
    """Assert and print what each task holds: every class in two held-out and four pool styles at least."""
    every_name = [name for names in tasks.values() for name in names]
    assert len(every_name) == len({n.lower() for n in every_name})
    in_pool = {name: set() for name in every_name}
    for source in (*PART_A, *PART_B, VALIDATION):
        for p in pictures[source]:
            if p.hexcode in class_of:
                in_pool[class_of[p.hexcode][1]].add(source)
    outside = {name: {s.source for s, (_, n), _ in held_out if n == name} for name in every_name}
    thin = [name for name in every_name if len(outside[name]) < 2 or len(in_pool[name]) < 4]
    for task, names in tasks.items():
        count = Counter(s.source for s, (where, _), _ in held_out if where == task)
        print(f"{task}: {len(names)} classes, {count.total()} held-out pictures {dict(count)}")
        assert 50 <= len(names) <= 70, task
    assert not thin, f"classes in too few styles: { {n: (len(outside[n]), len(in_pool[n])) for n in thin} }"


def report_near_copies(nearest: list[Nearest]) -> None:
    copies = [n for n in nearest if n.copied]
    rest = [n for n in nearest if not n.copied]
    closest = min(rest, key=lambda n: n.difference)
    by_source = dict(Counter(n.drawing.source for n in copies))
    print(f"near copies of pool pictures: {len(copies)} of {len(nearest)} held-out drawings dropped {by_source}")
    pair = " and ".join(f"{d.source}/{d.slug}" for d in (closest.drawing, closest.pool))
    print(f"  nearest that stay: {pair}, difference {closest.difference:.2f}; fewest bits {min(n.bits for n in rest)}")


def draw_for_pool(picture: sources.Picture):
    return drawing.draw_for_pool(picture, SEED)


def decodes(data: bytes) -> bool:
    try:
        Image.open(io.BytesIO(data)).load()
    except (OSError, SyntaxError):
        return False
    return True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that gets pool/, tasks/ and the lists")
    parser.add_argument(
        "--cache", type=Path, default=Path("~/.cache/reactvl-demo"), help="where fetched packages are kept"
    )
    parser.add_argument("--processes", type=int, default=2, help="drawing processes")
    parser.add_argument("--pairs", type=Path, help="png file for the pairs about the near-copy thresholds, to look at")
    options = parser.parse_args()
    build(options.out, options.cache.expanduser(), options.processes, options.pairs)
