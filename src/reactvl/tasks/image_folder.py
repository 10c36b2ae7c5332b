"""Tasks as folders of images: SPLIT/CLASS/image.jpg as torchvision and ImageNet have it, or CLASS/image.jpg for a lone
split.

Classes are the folders of the split that has the most of them, sorted; `_` in a folder's name is read as a space.
Where the folders' names are codes (n01440764), `classnames.txt` beside the splits gives the names, one a line in the
folders' order; `zeroshot_classification_templates.txt` gives the prompts.
"""

import functools
import hashlib
import json
import os
from pathlib import Path

import numpy as np

from reactvl.manifest import ReactvlError
from reactvl.tasks.classes import read_classes
from reactvl.tasks.task import Samples, Task, metric_of
from reactvl.tasks.webdataset import CLASSES, templates_of

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
    if (folder / CLASSES).is_file():
        classes = read_classes(folder / CLASSES)
        if len(classes) != len(codes):
            raise ReactvlError(
                f"{folder / CLASSES}: names {len(classes)} classes, {folder} has {len(codes)} class folders"
            )
    else:
        classes = [" ".join(code.replace("_", " ").split()) for code in codes]
    return Task(
        name=folder.resolve().name,
        classes=classes,
        templates=templates_of(folder),
        metric=metric_of(folder.resolve().name),
        folder=folder,
        splits={split: functools.partial(read_split, root, codes) for split, root in splits.items()},
    )


def read_split(root: Path, codes: list[str]) -> Samples:
    """The images of a split, by class and then by name; images in folders below a class's belong to it."""
    paths, labels, seen = [], [], []
    for label, code in enumerate(codes):
        for path in images_under(root / code):
            paths.append(path)
            labels.append(label)
            status = path.stat()
            seen.append([str(path.relative_to(root)), label, status.st_size, status.st_mtime_ns])

    def read(index: int) -> bytes:
        try:
            return paths[index].read_bytes()
        except OSError as fault:
            raise ReactvlError(
                f"{paths[index]}: cannot be read ({fault.strerror}); is the data still where it was?"
            ) from None

    names = [str(path.relative_to(root)) for path in paths]
    return Samples(names, np.array(labels, np.int64), [], hashlib.sha256(json.dumps(seen).encode()).hexdigest(), read)


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
