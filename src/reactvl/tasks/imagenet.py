"""ImageNet-1K as people have it on disk: always the thousand classes, with open_clip's names and CLIP's 80 templates.

    imagenet/val/n01440764/ILSVRC2012_val_00000293.JPEG         class folders (and train/ alike)
    imagenet/val/ILSVRC2012_val_00000293.JPEG                   flat, with a file of the labels in val/, beside it, or in the
                                                                development kit there (ILSVRC2012_devkit_t12/data/)
    imagenet/ILSVRC2012_img_val.tar                             the same as it is given out, read by offset
    imagenet/ILSVRC/Data/CLS-LOC/val/, imagenet/LOC_val_solution.csv            Kaggle's

Files of labels: `ILSVRC2012_validation_ground_truth.txt`, a line an image with the development kit's id from 1 to 1000, which
are not in the order of the WordNet ids; `LOC_val_solution.csv`, the WordNet id first in its second column; `val.txt`, lines
`file label` with the label from 0 to 999 in the order of the WordNet ids, or the WordNet id itself. The folder of the images
themselves may be given too. ImageNet is scored on its validation images: they are the split `val` and `test`.
"""

import functools
import hashlib
import json
import re
from collections.abc import Collection
from importlib import resources
from pathlib import Path

import numpy as np

from reactvl.manifest import ReactvlError
from reactvl.pool.headers import Tar
from reactvl.pool.reader import Request, read_image
from reactvl.tasks.benchmarks import benchmark
from reactvl.tasks.image_folder import class_folders, images_under, is_image, read_split
from reactvl.tasks.lists import read_text
from reactvl.tasks.naming import CLASSES, task_of
from reactvl.tasks.task import Samples, Task, Unusable, read_file, status_of
from reactvl.tasks.wordnet import WORDNET, are_ids, imagenet_names

NAME = "imagenet-1k"
FOLDERS = ("imagenet-1k", "imagenet")
ARCHIVE = "ILSVRC2012_img_val.tar"
KAGGLE = Path("ILSVRC/Data/CLS-LOC")
GROUND_TRUTH, SOLUTION, PAIRS = "ILSVRC2012_validation_ground_truth.txt", "LOC_val_solution.csv", "val.txt"
DEVELOPMENT_KIT = Path("ILSVRC2012_devkit_t12/data")
NUMBER = re.compile(r"ILSVRC2012_val_([0-9]{8})")


def read_task(folder: Path) -> Task | None:
    """The task of ImageNet's folder or of its validation images' own; None for a folder of another kind. ReactvlError for
    class folders that are none of ImageNet's, and for flat images without labels."""
    splits = {}
    for split in ("val", "train"):
        home = next((path for path in (folder / split, folder / KAGGLE / split) if path.is_dir()), None)
        if home is None and split == "val":
            if (folder / ARCHIVE).is_file():
                splits[split] = functools.partial(read_flat, folder / ARCHIVE, label_file(folder, folder))
                continue
            home = folder
        if home is None:
            continue
        codes = [path.name for path in class_folders(home)]
        if are_ids(codes):
            check_ids(home, codes)
            splits[split] = functools.partial(read_split, home, list(imagenet_names()))
        elif split == "val" and not codes and any(is_image(path.name) for path in some_files(home)):
            splits[split] = functools.partial(read_flat, home, label_file(folder, home))
    if "val" not in splits:
        return None
    known = benchmark(NAME)
    return task_of(folder, known.classes, {"test": splits["val"]} | splits, templates=known.templates, name=NAME)


def validation_task(folder: Path) -> tuple[Task, Samples]:
    """What a training run is judged by: the task of a folder of class folders, of a task's folder that has a `val` split,
    or of ImageNet's flat validation images, and its images.

    Folders named by WordNet ids are ImageNet's classes, all or some of the thousand. Raises ReactvlError for a folder that
    holds no images in class folders, for several tasks, for a task that has a test split alone, and for a WordNet id that is
    none of ImageNet's classes.
    """
    from reactvl.tasks.finding import find

    folder = Path(folder)
    home = folder / "val" if (folder / "val").is_dir() else folder
    flat = home.is_dir() and not class_folders(home) and any(NUMBER.match(path.name) for path in some_files(home))
    if (flat or (home / ARCHIVE).is_file()) and (task := read_task(folder)):
        return task, task.samples("val")
    found = find(None, folder)
    if len(found) > 1:
        raise ReactvlError(
            f"imagenet_val {folder}: holds {len(found)} tasks ({found[0].name}, ...); give the folder of one"
        )
    task = found[0]
    if not isinstance(task, Task):
        raise ReactvlError(f"imagenet_val {folder}: holds images with captions, not with classes")
    if "val" not in task.splits and (folder / "test").is_dir():
        raise ReactvlError(
            f"imagenet_val {folder}: has no `val` split; a run is never judged by test labels. Give a folder of class folders "
            "that were set apart for validation"
        )
    if not (folder / CLASSES).is_file() and are_ids(task.classes):  # some of them are not ImageNet's
        check_ids(folder, task.classes)
    return task, task.samples("val" if "val" in task.splits else next(iter(task.splits)))


def check_ids(folder: Path, codes: list[str]) -> None:
    """ReactvlError for a WordNet id that is none of ImageNet's."""
    if strange := [code for code in codes if code not in imagenet_names()]:
        raise ReactvlError(
            f"imagenet_val {folder}: {strange[0]} is none of ImageNet's 1,000 classes; name the classes in {CLASSES}, "
            "one a line in the folders' order"
        )


def some_files(folder: Path) -> list[Path]:
    return [path for path, _ in zip(folder.iterdir(), range(64), strict=False)]


def label_file(folder: Path, home: Path) -> Path:
    """The file of the labels of flat images; ReactvlError says where it is looked for."""
    places = list(
        dict.fromkeys(
            [home, folder, home.parent, folder / KAGGLE.parts[0], *([folder.parent] if home == folder else [])]
        )
    )
    for place in [*places, *(place / DEVELOPMENT_KIT for place in places)]:
        for name in (GROUND_TRUTH, SOLUTION, PAIRS):
            if (place / name).is_file():
                return place / name
    raise ReactvlError(
        f"{home}: holds ImageNet's images without class folders, and no file of their labels; put {GROUND_TRUTH}, {SOLUTION} or "
        f"{PAIRS} (lines `file label`) into it or beside it"
    )


def read_flat(home: Path, labels: Path) -> Samples:
    """The images of a folder, by name, or of a tar, as they lie in it, with the labels of a file; an image that the file
    names and that is not there is among the unusable."""
    faults: Unusable = []
    if home.is_dir():
        images = {path.relative_to(home).as_posix(): path for path in images_under(home)}
    else:
        images, faults = in_tar(home)
    if labels.name == GROUND_TRUTH:
        given, unusable = by_number(images, labels)
    else:
        given, unusable = by_name(images, labels)
    unusable = faults + unusable
    unusable += [(name, f"{labels.name} gives it no label") for name in images if name not in given]
    status = {name: seen_of(images[name]) for name in images if name in given}
    unusable += [(name, "is a link that leads nowhere") for name, about in status.items() if about is None]
    names = [name for name, about in status.items() if about is not None]
    seen = [[name, given[name], *status[name]] for name in names]
    return Samples(
        names,
        np.array([given[name] for name in names], np.int64),
        unusable,
        hashlib.sha256(json.dumps(seen).encode()).hexdigest(),
        lambda index: read_place(images[names[index]]),
    )


def in_tar(path: Path) -> tuple[dict[str, Request], Unusable]:
    """The images of a tar by name, and what could not be read of it."""
    try:
        with Tar(path) as tar:
            images = {
                member.name: (path, member.offset, member.size) for member in tar if is_image(Path(member.name).name)
            }
    except OSError as fault:
        raise ReactvlError(f"{path}: cannot be read ({fault.strerror})") from None
    return images, [(fault.name or path.name, f"{fault.reason}: {fault.detail}") for fault in tar.faults]


def seen_of(place: Path | Request) -> tuple[int, int] | None:
    """What tells an image from another of its name: of a file, size and time; of a tar's member, its place."""
    return status_of(place) if isinstance(place, Path) else place[1:]


def read_place(place: Path | Request) -> bytes:
    return read_file(place) if isinstance(place, Path) else read_image(*place)


def by_number(images: Collection[str], path: Path) -> tuple[dict[str, int], Unusable]:
    """Labels of a file with one of the development kit's ids a line: line N is the image of number N."""
    lines = read_text(path, "labels").split()
    for number, line in enumerate(lines, 1):
        if not (line.isascii() and line.isdigit() and len(line) <= 4 and 1 <= int(line) <= 1000):
            raise ReactvlError(
                f"{path}, line {number}: '{line[:20]}' is no id of the development kit, which are 1 to 1000"
            )
    order, given, seen = development_kit_order(), {}, set()
    for name in images:
        match = NUMBER.match(Path(name).name)
        number = int(match[1]) if match else 0
        if 1 <= number <= len(lines):
            given[name] = order[int(lines[number - 1]) - 1]
            seen.add(number)
    lost = [number for number in range(1, len(lines) + 1) if number not in seen]
    return given, [(f"ILSVRC2012_val_{number:08d}.JPEG", "no such file") for number in lost]


def by_name(images: Collection[str], path: Path) -> tuple[dict[str, int], Unusable]:
    """Labels of a file with an image's name and its label a line; names count without folders and extension."""
    ids = {code: label for label, code in enumerate(imagenet_names())}
    stems = {Path(name).stem: name for name in images}
    given, unusable = {}, []
    for number, line in enumerate(read_text(path, "labels").splitlines(), 1):
        parts = line.replace(",", " ", 1).split() if path.name == SOLUTION else line.split()
        if not parts or (path.name == SOLUTION and parts[0] == "ImageId"):
            continue
        said = parts[1] if len(parts) > 1 else ""
        if WORDNET.fullmatch(said):
            label = ids.get(said, -1)
        else:
            label = int(said) if said.isascii() and said.isdigit() and len(said) <= 3 else -1
        if label < 0:
            raise ReactvlError(
                f"{path}, line {number}: '{said[:20]}' is no label; wanted 0 to 999 in the order of the WordNet ids, or the "
                "WordNet id itself"
            )
        name = stems.get(Path(parts[0]).stem)
        if name is None:
            unusable.append((parts[0], "no such file"))
        else:
            given[name] = label
    return given, unusable


@functools.cache
def development_kit_order() -> list[int]:
    """The label of each of the development kit's ids, which count from 1."""
    text = resources.files(__package__).joinpath("ilsvrc2012_ids.txt").read_text()
    labels = {code: label for label, code in enumerate(imagenet_names())}
    return [labels[f"n{code}"] for line in text.splitlines() if not line.startswith("#") for code in line.split()]
