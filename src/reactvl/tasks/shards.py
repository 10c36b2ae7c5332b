"""Shards of pairs as tasks: img2dataset's, and this project's own as `retrieve --materialize` and `export --shards` write
them.

    pairs/00000.tar, 00001.tar, ...     KEY.jpg, KEY.txt (one caption) and KEY.json
    pairs/test/00000.tar, ...           or in folders by split

Where the json names a class (`class`, `class_id`) the images are labelled by it, which says what a pair was retrieved for
and not what is in it; else they are captioned images.
"""

import functools
from pathlib import Path

import numpy as np

from reactvl.manifest import Manifest, ReactvlError, read_manifest
from reactvl.pool.tars import Sample
from reactvl.tasks import captions
from reactvl.tasks.classes import ClassEntry
from reactvl.tasks.naming import task_of
from reactvl.tasks.task import CaptionTask, Samples, Task, called
from reactvl.tasks.webdataset import opened, shelved, splits_in

SHARDS = "shards"  # the folder in which `retrieve --materialize` writes them


def read_task(folder: Path) -> Task | CaptionTask | None:
    """The task of a folder of shards, None when it holds none."""
    alone = any(folder.glob("*.tar"))
    homes = {"test": folder} if alone else {split: folder / split for split in splits_in(folder)}
    if not homes:
        return None
    if not labelled(next(iter(homes.values()))):
        name = called(folder)
        splits = {split: functools.partial(captions.read_split, home, lines=False) for split, home in homes.items()}
        return CaptionTask(name=name, folder=folder, splits=splits)
    names = class_names(folder, list(homes.values()))
    entries = [ClassEntry(name, (name,)) for name in names]
    read = functools.partial(read_split, classes=len(names))
    return task_of(folder, entries, {split: functools.partial(read, home) for split, home in homes.items()})


def labelled(home: Path) -> bool:
    """Whether the first image of the first shard names its class."""
    first = next(iter(sorted(home.glob("*.tar"))))
    return any(class_of(sample) is not None for sample in opened(first, "txt").samples[:1])


def class_of(sample: Sample) -> tuple[int, str] | None:
    number, name = sample.fields.get("class_id"), sample.fields.get("class")
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 1 << 24 and isinstance(name, str):
        return number, name
    return None


def class_names(folder: Path, homes: list[Path]) -> list[str]:
    """The classes by id: of the retrieval that the shards came from, else of the pairs themselves (a class without a pair
    is then called by its number)."""
    found: dict[int, str] = {}
    for home in homes:
        for shard in sorted(home.glob("*.tar")):
            found |= dict(filter(None, map(class_of, opened(shard, "txt").samples)))
    known = classes_retrieved(folder)
    if known is not None and all(number < len(known) and known[number] == name for number, name in found.items()):
        return known
    return [found.get(number, f"class {number}") for number in range(max(found) + 1)]


def classes_retrieved(folder: Path) -> list[str] | None:
    """The classes that the retrieval of a folder of shards asked for; None where its folder is not there any more."""
    retrieval = folder.resolve().parent if folder.resolve().name == SHARDS else None
    if (exported := manifest(folder)) is not None and exported.stage == "export" and "retrieved" in exported.inputs:
        retrieval = (folder / exported.inputs["retrieved"].path).resolve()
    asked = manifest(retrieval) if retrieval else None
    return [str(name) for name in asked.options["classes"]] if asked and asked.options.get("classes") else None


def manifest(folder: Path) -> Manifest | None:
    try:
        return read_manifest(folder)
    except ReactvlError:
        return None


def read_split(home: Path, *, classes: int) -> Samples:
    """The images of a folder's shards, labelled by the class that each was retrieved for."""

    def label(shard: Path, sample: Sample) -> tuple[int, str]:
        found = class_of(sample)
        if found is None:
            return -1, "its json names no class"
        return (found[0], "") if found[0] < classes else (-1, f"its class {found[0]} is beyond the {classes} classes")

    names, labels, unusable, seen, read = shelved(home, label)
    return Samples(names, np.array(labels, np.int64), unusable, seen, read)
