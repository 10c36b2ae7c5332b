"""Tasks as folders of images: SPLIT/CLASS/image.jpg as torchvision and ImageNet have it, or CLASS/image.jpg for a lone
split.

Classes are the folders of all splits, sorted; `_` in a folder's name is read as a space. Where the folders' names are
codes, `classnames.txt` beside the splits gives the names, one a line in the folders' order; WordNet ids (n01440764) need
none, they are ImageNet's classes, all or some of the thousand. A folder named for a benchmark, with a folder for each of its
classes (by name, or by number from 0), has that benchmark's classes in that benchmark's order.
"""

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reactvl.manifest import ReactvlError
from reactvl.tasks.benchmarks import folded
from reactvl.tasks.classes import ClassEntry, class_of, read_class_list
from reactvl.tasks.naming import CLASSES, TEMPLATES, benchmark_called, task_of
from reactvl.tasks.task import Samples, Task, called, read_file, status_of
from reactvl.tasks.templates import read_templates
from reactvl.tasks.wordnet import are_ids, imagenet_names

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
SPLITS = ("test", "val", "train")


def read_task(folder: Path) -> Task | None:
    """The task of a folder, None when it is of another kind; ReactvlError when its classnames.txt does not fit its
    folders."""
    splits = {name: folder / name for name in SPLITS if (folder / name).is_dir() and class_folders(folder / name)}
    if not splits:
        if not class_folders(folder):
            return None
        splits = {"test": folder}
    codes = sorted({path.name for root in splits.values() for path in class_folders(root)})
    entries, templates = classes_of(folder, codes), None
    if entries is None and are_ids(codes) and set(codes) <= imagenet_names().keys():
        entries = [ClassEntry(name, (name,)) for name in (imagenet_names()[code] for code in codes)]
        templates = None if (folder / TEMPLATES).is_file() else read_templates("openai")
    elif entries is None and (order := in_benchmarks_order(called(folder), codes)):
        codes, entries = order
    if entries is None:
        entries = [class_of([" ".join(code.replace("_", " ").split()) or code], f"{folder}/{code}") for code in codes]
    return task_of(
        folder,
        entries,
        {split: functools.partial(read_split, root, codes) for split, root in splits.items()},
        templates=templates,
    )


def classes_of(folder: Path, codes: Sequence[str]) -> list[ClassEntry] | None:
    """The names that a folder gives its class folders; None where it gives none."""
    if not (folder / CLASSES).is_file():
        return None
    entries = read_class_list(folder / CLASSES)
    if len(entries) != len(codes):
        raise ReactvlError(f"{folder / CLASSES}: names {len(entries)} classes, {folder} has {len(codes)} class folders")
    return entries


def in_benchmarks_order(name: str, codes: Sequence[str]) -> tuple[list[str], list[ClassEntry]] | None:
    """The class folders in the order of the benchmark of this name, and its classes; None unless each has its folder."""
    meant = benchmark_called(name)
    if meant is None or len(meant.classes) != len(codes):
        return None
    entries = list(meant.classes)
    if all(code.isascii() and code.isdigit() for code in codes):
        by_number = {int(code): code for code in codes}
        found = [by_number.get(number) for number in range(len(codes))]
    else:
        by_name: dict[str, list[str]] = {}
        for code in codes:
            by_name.setdefault(folded(code), []).append(code)
        # of two classes of one name neither is known by it
        found = [only[0] if len(only := by_name.get(folded(entry.name), [])) == 1 else None for entry in entries]
    whole = None not in found and len(set(found)) == len(codes)
    return (found, entries) if whole else None


def read_split(root: Path, codes: Sequence[str]) -> Samples:
    """The images of a split, by class and then by name; images in folders below a class's belong to it."""
    paths, labels, seen, unusable = [], [], [], []
    for label, code in enumerate(codes):
        for path in images_under(root / code):
            name, status = str(path.relative_to(root)), status_of(path)
            if status is None:
                unusable.append((name, "is a link that leads nowhere"))
            else:
                paths.append(path)
                labels.append(label)
                seen.append([name, label, *status])
    return Samples(
        names=[name for name, *_ in seen],
        labels=np.array(labels, np.int64),
        unusable=unusable,
        fingerprint=hashlib.sha256(json.dumps(seen).encode()).hexdigest(),
        reader=lambda index: read_file(paths[index]),
    )


def images_under(folder: Path) -> list[Path]:
    """Image files in a folder and below, sorted by path; hidden ones are passed over, links to folders are not
    followed."""
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(root, name) for name in files if is_image(name)]
    return sorted(found)


def class_folders(root: Path) -> list[Path]:
    """Folders in `root` that directly hold an image."""
    return sorted(
        path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".") and has_image(path)
    )


def has_image(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(is_image(entry.name) and entry.is_file() for entry in entries)


def is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")
