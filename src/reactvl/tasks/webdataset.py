"""Tasks in CLIP-benchmark's webdataset layout.

    food/classnames.txt                             one class a line; the line's number is the label
    food/zeroshot_classification_templates.txt      one template a line, `{c}` for the class
    food/test/0.tar, 1.tar, ...                     KEY.jpg|jpeg|png|webp with KEY.cls, the label in ASCII digits
    food/test/nshards.txt                           optional: the number of shards, checked

Images stay in their tars and are read by offset.
"""

import functools
import hashlib
import json
from pathlib import Path

import numpy as np

from reactvl.manifest import ReactvlError
from reactvl.pool.reader import read_image
from reactvl.pool.tars import catalogue, fingerprint
from reactvl.tasks.classes import read_classes
from reactvl.tasks.task import Samples, Task, metric_of
from reactvl.tasks.templates import read_templates

CLASSES, TEMPLATES = "classnames.txt", "zeroshot_classification_templates.txt"
DEFAULT_TEMPLATES = ["a photo of a {}."]
MAX_LABEL = 20  # bytes of a .cls


def read_task(folder: Path) -> Task | None:
    """The task of a folder, None when it is of another kind; ReactvlError for one of this kind that is damaged."""
    if not (folder / CLASSES).is_file():
        return None
    splits = sorted(path.name for path in folder.iterdir() if path.is_dir() and any(path.glob("*.tar")))
    if not splits:
        return None
    classes = read_classes(folder / CLASSES)
    return Task(
        name=folder.resolve().name,
        classes=classes,
        templates=templates_of(folder),
        metric=metric_of(folder.resolve().name),
        folder=folder,
        splits={split: functools.partial(read_split, folder / split, len(classes)) for split in splits},
    )


def templates_of(folder: Path) -> list[str]:
    """The templates beside a task's images; a plain one where there are none."""
    path = folder / TEMPLATES
    return read_templates(path) if path.is_file() else list(DEFAULT_TEMPLATES)


def read_split(folder: Path, classes: int) -> Samples:
    """The labelled images of a split's shards, in the shards' numeric order and their order within."""
    shards = sorted(folder.glob("*.tar"), key=lambda path: (len(path.stem), path.stem))
    check_count(folder, len(shards))
    names, labels, places, unusable, digest = [], [], [], [], hashlib.sha256()
    for shard in shards:
        found, faults = scan(shard, classes)
        unusable += [(f"{shard.name}/{name}" if name else shard.name, reason) for name, reason in faults]
        for name, label, offset, size in found:
            names.append(f"{shard.name}/{name}")
            labels.append(label)
            places.append((shard, offset, size))
        seen = fingerprint(shard)
        digest.update(json.dumps([shard.name, seen.size, seen.ends_sha256, found]).encode())

    def read(index: int) -> bytes:
        return read_image(*places[index])

    return Samples(names, np.array(labels, np.int64), unusable, digest.hexdigest(), read)


def scan(shard: Path, classes: int) -> tuple[list[tuple[str, int, int, int]], list[tuple[str, str]]]:
    """(name, label, offset, size) of every labelled image of a shard in order, and (name, reason) of all others."""
    try:
        seen = catalogue(shard)
    except OSError as fault:
        raise ReactvlError(f"{shard}: cannot be read ({fault.strerror})") from None
    found, faults = [], [(skipped.key, f"{skipped.reason}: {skipped.detail}") for skipped in seen.skipped]
    for sample in seen.samples:
        name = f"{sample.key}.{sample.ext}"
        place = sample.extra.get("cls")
        label, reason = label_of(read_image(shard, place[0], min(place[1], MAX_LABEL)) if place else None, classes)
        if reason:
            faults.append((name, reason))
        else:
            found.append((name, label, sample.offset, sample.size))
    return found, faults


def label_of(body: bytes | None, classes: int) -> tuple[int, str]:
    """The label in a `.cls` body, or why there is none."""
    if body is None:
        return -1, "no .cls beside it"
    text = body.strip()
    if not text.isdigit():
        return -1, f"its .cls holds {text[:MAX_LABEL]!r}, not a number"
    label = int(text)
    return (label, "") if label < classes else (-1, f"its label {label} is beyond the {classes} classes")


def check_count(folder: Path, found: int) -> None:
    """ReactvlError when `nshards.txt` promises another number of shards: half a benchmark must not pass for the
    whole."""
    path = folder / "nshards.txt"
    if path.is_file():
        text = path.read_text().strip()
        if not text.isdigit() or int(text) != found:
            raise ReactvlError(f"{path}: says {text[:20]!r} shards, the folder holds {found}; fetch the rest")
