"""Tasks as they lie under ELEVATER's root: an index a split, and zips beside it that are read by offset.

    ROOT/classification/dtd_20211007/test.txt       lines `test.zip@inner/path.jpg label` (`indexes` has both kinds)
    ROOT/classification/dtd_20211007/test.zip
    ROOT/classification/dtd_20211007/labels.txt     the labels' names, where there are any

A benchmark's folder and index names stand in its file (`known/NAME.toml`); its classes and templates are the
benchmark's. A folder of another name is read alike if it has `test.txt` or `test.json` (or train, val) and the names of
its labels. A zip that is not there but was unpacked beside the index, under its name, is read from there.
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from reactvl.manifest import ReactvlError
from reactvl.pool.tars import fingerprint
from reactvl.pool.zips import Member, catalogue, read_member
from reactvl.tasks import benchmarks
from reactvl.tasks.benchmarks import Benchmark, by_folder
from reactvl.tasks.classes import ClassEntry, class_of
from reactvl.tasks.indexes import Entry, read_index
from reactvl.tasks.lists import read_text, squeezed
from reactvl.tasks.task import Samples, Task, called, read_file, status_of

LABEL_FILES = ("labels.txt", "labelmap.txt")
SPLITS = ("test", "val", "train")
DEFAULT_TEMPLATES = ["a photo of a {}."]


def read_task(folder: Path, known: Benchmark | None = None) -> Task | None:
    """The task of a folder, of `known` or of the benchmark that the folder is named for; None where there is no index."""
    known = known or by_folder(called(folder))
    if known is None or known.elevater is None:
        return read_unknown(folder)
    layout = known.elevater
    indexes = {"test": layout.test, "val": layout.val, "train": layout.train}
    if known.name == "imagenet-1k":
        indexes["val"] = layout.test  # what ELEVATER tests on is ImageNet's validation split
    indexes = {split: folder / name for split, name in indexes.items() if name and (folder / name).is_file()}
    if not indexes:
        return None
    check_labels(folder, len(known.classes), known.name)
    return Task(
        name=known.name,
        classes=known.class_names,
        templates=list(known.templates),
        metric=known.metric,
        folder=folder,
        splits={
            split: functools.partial(
                read_split,
                folder,
                index,
                classes=len(known.classes),
                multilabel=layout.multilabel,
                archive=layout.archive if split == "test" else "",
            )
            for split, index in indexes.items()
        },
        synonyms=[entry.synonyms for entry in known.classes],
        benchmark=benchmarks.known(known.name),
        test_images=known.test_images,
        multilabel=layout.multilabel,
    )


def read_unknown(folder: Path) -> Task | None:
    """The task of a folder of another name: indexes named for their splits, and `labels.txt` or a `.json`'s categories.

    It has several labels an image where an index says so.
    """
    indexes = {
        split: path for split in SPLITS for ext in (".txt", ".json") if (path := folder / f"{split}{ext}").is_file()
    }
    label_file = next((folder / name for name in LABEL_FILES if (folder / name).is_file()), None)
    if not indexes or not (label_file or any(path.suffix == ".json" for path in indexes.values())):
        return None
    try:
        read = {split: read_index(path) for split, path in indexes.items()}
    except ReactvlError:
        return None  # a file of this name that is no index
    if not any(entry.labels for index in read.values() for entry in index.entries):
        return None
    if label_file:
        entries = named(label_file)
    else:
        names = next(index.names for index in read.values() if index.names is not None)
        entries = [class_of([name], f"{folder}, category {number}") for number, name in enumerate(names)]
    multilabel = any(len(entry.labels) > 1 for index in read.values() for entry in index.entries)
    return Task(
        name=called(folder),
        classes=[entry.name for entry in entries],
        templates=list(DEFAULT_TEMPLATES),
        metric="11point_mAP" if multilabel else "accuracy",
        folder=folder,
        splits={
            split: functools.partial(read_split, folder, path, classes=len(entries), multilabel=multilabel)
            for split, path in indexes.items()
        },
        multilabel=multilabel,
    )


def named(path: Path) -> list[ClassEntry]:
    """The classes of a label file: one a line, blank lines passed over, every sign as it stands."""
    lines = [squeezed(line) for line in read_text(path, "labels").splitlines()]
    return [class_of([line], f"{path}, line {number}") for number, line in enumerate(lines, 1) if line]


def check_labels(folder: Path, classes: int, name: str) -> None:
    """ReactvlError when the folder's own label file has another number of names than the benchmark."""
    for path in (folder / name for name in LABEL_FILES):
        if path.is_file() and len(named(path)) != classes:
            raise ReactvlError(f"{path}: names {len(named(path))} labels, {name} has {classes} classes")


def read_split(folder: Path, path: Path, *, classes: int, multilabel: bool, archive: str = "") -> Samples:
    """The images of an index in its order. `archive`: where an image lies that the index names without one.

    Of several labels in a task of one an image the first counts, as in ELEVATER. Raises ReactvlError for an archive that
    is not there.
    """
    index = read_index(path)
    if index.names is not None and len(index.names) != classes:
        raise ReactvlError(f"{path}: has {len(index.names)} categories, its task {classes} classes")
    store = Store(folder, path)
    names, kept, places, unusable = [], [], [], []
    for entry in index.entries:
        place = None
        fault = entry.fault or label_fault(entry.labels, classes, multilabel)
        if not fault:
            place, fault = store.find(entry, archive)
        if fault:
            unusable.append((entry.path, fault))
        else:
            names.append(entry.path)
            kept.append(entry.labels)
            places.append(place)
    labels = matrix(kept, classes) if multilabel else np.array([some[0] for some in kept], np.int64)
    seen = hashlib.sha256(json.dumps([store.seen, names, kept, [member for _, member in places]]).encode())

    def read(number: int) -> bytes:
        home, member = places[number]
        return read_file(home) if member is None else read_member(home, member)

    return Samples(names, labels, unusable, seen.hexdigest(), read)


def label_fault(labels: tuple[int, ...], classes: int, multilabel: bool) -> str:
    if not labels and not multilabel:
        return "has no label"
    wrong = [label for label in labels if label >= classes]
    return f"its label {wrong[0]} is beyond the {classes} classes" if wrong else ""


def matrix(labels: list[tuple[int, ...]], classes: int) -> np.ndarray:
    """bool (images, classes)."""
    found = np.zeros((len(labels), classes), bool)
    for row, some in enumerate(labels):
        found[row, list(some)] = True
    return found


class Store:
    """What lies in a task's folder: zips by name, each catalogued when it is first asked for, and unpacked files.

    Names of an index are looked up in what was found here, never made into paths. `seen` is what tells the data from
    others of the same names.
    """

    def __init__(self, folder: Path, index: Path):
        self.folder, self.index = folder, index
        self.zips = {path.relative_to(folder).as_posix(): path for path in zips_in(folder)}
        self.opened: dict[str, tuple[Path, dict[str, Member], dict[str, str]] | None] = {}
        self.unpacked: dict[str, Path] | None = None
        self.seen: list = []

    def find(self, entry: Entry, archive: str) -> tuple[tuple[Path, Member | None] | None, str]:
        """Where an image lies, or why it cannot be read."""
        if not entry.archive:
            path = self.files().get(entry.name)
            if path is not None:
                return self.file(path)
            if not archive or archive not in self.zips:
                return None, f"no such file in {self.folder}"
        home = self.open(entry.archive or archive)
        if home is None:
            path = self.files().get(f"{entry.archive.removesuffix('.zip')}/{entry.name}")
            return (None, f"{entry.archive} was unpacked without it") if path is None else self.file(path)
        path, members, faults = home
        if entry.name in members:
            return (path, members[entry.name]), ""
        return None, f"in {path.name} it {faults[entry.name]}" if entry.name in faults else f"{path.name} lacks it"

    def open(self, name: str) -> tuple[Path, dict[str, Member], dict[str, str]] | None:
        """A zip's members and the faults of the others; None where it was unpacked into a folder of its name."""
        if name not in self.opened:
            if name in self.zips:
                path = self.zips[name]
                members, faults = catalogue(path)
                self.seen.append([name, *fingerprint(path)[::2]])
                self.opened[name] = path, members, dict(faults)
            elif any(file.startswith(name.removesuffix(".zip") + "/") for file in self.files()):
                self.opened[name] = None
            else:
                have = ", ".join(sorted(self.zips)) or "no zip"
                raise ReactvlError(
                    f"{self.index}: names images in {name}, which is not in {self.folder} (there: {have}); fetch it"
                )
        return self.opened[name]

    def files(self) -> dict[str, Path]:
        """Every file below the folder by its name from there; links to folders are not followed."""
        if self.unpacked is None:
            self.unpacked = {
                Path(root, name).relative_to(self.folder).as_posix(): Path(root, name)
                for root, _, names in os.walk(self.folder)
                for name in names
            }
        return self.unpacked

    def file(self, path: Path) -> tuple[tuple[Path, None] | None, str]:
        status = status_of(path)
        if status is None:
            return None, "is a link that leads nowhere"
        self.seen.append(status)
        return (path, None), ""


def zips_in(folder: Path) -> Iterator[Path]:
    """The zips of a folder and of the folders in it."""
    for pattern in ("*.zip", "*/*.zip"):
        yield from (path for path in sorted(folder.glob(pattern)) if path.is_file())
