"""Tasks in CLIP-benchmark's webdataset layout.

    food/classnames.txt, zeroshot_classification_templates.txt      see `naming`
    food/test/0.tar, 1.tar, ...                     KEY.jpg|jpeg|png|webp with KEY.cls, the label in ASCII digits
    food/test/nshards.txt                           optional: the number of shards, checked
    food/dataset_type.txt                           optional: `multilabel`, then KEY.npy holds a number a class, not 0 for
                                                    those in the image; `retrieval` is read by `captions`

Images stay in their tars and are read by offset.
"""

import functools
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from reactvl.manifest import ReactvlError
from reactvl.pool.reader import read_image
from reactvl.pool.tars import Catalogue, Sample, catalogue, fingerprint
from reactvl.tasks.classes import ClassEntry
from reactvl.tasks.lists import read_text
from reactvl.tasks.naming import CLASSES, classes_in, task_of
from reactvl.tasks.task import Samples, Task, Unusable

TYPE = "dataset_type.txt"
MAX_LABEL = 20  # bytes of a .cls
MAX_LABELS = 1 << 20  # bytes of a .npy


def read_task(folder: Path, given: list[ClassEntry] | None = None) -> Task | None:
    """The task of a folder, None when it is of another kind; ReactvlError for one of this kind that is damaged.

    `given` are the classes of a folder that names none.
    """
    kind = kind_of(folder)
    splits = splits_in(folder)
    if kind == "retrieval" or not splits:
        return None
    if not (folder / CLASSES).is_file() and not has_labels(folder / splits[0]):
        return None
    entries = classes_in(folder) or given
    if entries is None:
        return None
    read = functools.partial(read_split, classes=len(entries), multilabel=kind == "multilabel")
    return task_of(
        folder,
        entries,
        {split: functools.partial(read, folder / split) for split in splits},
        multilabel=kind == "multilabel",
    )


def kind_of(folder: Path) -> str:
    """What `dataset_type.txt` says, "" without one."""
    return read_text(folder / TYPE, "the data set's kind").strip().lower() if (folder / TYPE).is_file() else ""


def has_labels(split: Path) -> bool:
    """Whether the first image of the first shard has a label."""
    first = opened(min(split.glob("*.tar")), "txt").samples[:1]
    return any({"cls", "npy"} & sample.extra.keys() for sample in first)


def splits_in(folder: Path) -> list[str]:
    """Folders of shards in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and any(path.glob("*.tar")))


def read_split(folder: Path, *, classes: int, multilabel: bool = False) -> Samples:
    """The labelled images of a split's shards, in the shards' numeric order and their order within."""

    def label(shard: Path, sample: Sample) -> tuple[Any, str]:
        if multilabel:
            place = sample.extra.get("npy")
            body = read_image(shard, *place) if place and place[1] <= MAX_LABELS else None
            return labels_of(body, classes)
        place = sample.extra.get("cls")
        return label_of(read_image(shard, place[0], min(place[1], MAX_LABEL)) if place else None, classes)

    names, labels, unusable, seen, read = shelved(folder, label)
    kept = np.array(labels, bool).reshape(len(labels), classes) if multilabel else np.array(labels, np.int64)
    return Samples(names, kept, unusable, seen, read)


Shelved = tuple[list[str], list[Any], Unusable, str, Callable[[int], bytes]]


def shelved(folder: Path, about: Callable[[Path, Sample], tuple[Any, str]], captions: str = "txt") -> Shelved:
    """The images of a folder's shards with what `about` says of each (its label, or a reason why it cannot be used), the
    others, the fingerprint of all, and their reader. ReactvlError for a shard that cannot be read at all."""
    shards = sorted(folder.glob("*.tar"), key=lambda path: (len(path.stem), path.stem))
    check_count(folder, len(shards))
    names, said, places, unusable, digest = [], [], [], [], hashlib.sha256()
    for shard in shards:
        seen = opened(shard, captions)
        kept = []
        for skipped in seen.skipped:
            name = f"{shard.name}/{skipped.key}" if skipped.key else shard.name
            unusable.append((name, f"{skipped.reason}: {skipped.detail}"))
        for sample in seen.samples:
            name = f"{shard.name}/{sample.key}.{sample.ext}"
            what, reason = about(shard, sample)
            if reason:
                unusable.append((name, reason))
            else:
                kept.append([name, what, sample.offset, sample.size])
                names.append(name)
                said.append(what)
                places.append((shard, sample.offset, sample.size))
        about_file = fingerprint(shard)
        digest.update(json.dumps([shard.name, about_file.size, about_file.ends_sha256, kept]).encode())

    def read(index: int) -> bytes:
        return read_image(*places[index])

    return names, said, unusable, digest.hexdigest(), read


def opened(shard: Path, captions: str) -> Catalogue:
    try:
        return catalogue(shard, captions)
    except OSError as fault:
        raise ReactvlError(f"{shard}: cannot be read ({fault.strerror})") from None


def label_of(body: bytes | None, classes: int) -> tuple[int, str]:
    """The label in a `.cls` body, or why there is none."""
    if body is None:
        return -1, "no .cls beside it"
    text = body.strip()
    if not text.isdigit():
        return -1, f"its .cls holds {text[:MAX_LABEL]!r}, not a number"
    label = int(text)
    return (label, "") if label < classes else (-1, f"its label {label} is beyond the {classes} classes")


def labels_of(body: bytes | None, classes: int) -> tuple[list[bool], str]:
    """The labels in a `.npy` body, or why there are none."""
    if body is None:
        return [], "no .npy beside it"
    file = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        # the shape first: memory is asked for no more than the classes call for
        if shape != (classes,) or dtype.kind not in "biuf":
            return [], f"its .npy holds {dtype} {shape}, wanted {classes} numbers"
        return (np.frombuffer(body, dtype, classes, file.tell()) != 0).tolist(), ""
    except Exception as fault:  # numpy reads the header as Python's syntax and lets through whatever its parser raises
        return [], f"its .npy cannot be read ({str(fault).partition(chr(10))[0][:100]})"


def check_count(folder: Path, found: int) -> None:
    """ReactvlError when `nshards.txt` promises another number of shards: half a benchmark must not pass for the
    whole."""
    path = folder / "nshards.txt"
    if path.is_file():
        text = path.read_text().strip()
        if not text.isdigit() or int(text) != found:
            raise ReactvlError(f"{path}: says {text[:20]!r} shards, the folder holds {found}; fetch the rest")
