"""Pairs as separate files, class by class: a class is done when its mark says so, else it is written anew."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from reactvl.manifest import ReactvlError, Stage, write_json
from reactvl.pool.copies import Left, Written
from reactvl.pool.reader import read_many
from reactvl.pool.tars import IMAGE_EXTENSIONS
from reactvl.progress import progress


class Copy(NamedTuple):
    """A pair and the name that its files get, without extension; `about` goes to the class's meta file."""

    row: dict[str, Any]  # shard_path, offset, size, ext, caption, record
    name: str
    about: dict[str, Any]


class ClassCopies(NamedTuple):
    """The pairs of a class, the folder that its files go to, and the meta file that is written beside, if any."""

    folder: Path
    copies: list[Copy]
    meta: Path | None


def write_classes(stage: Stage, classes: list[ClassCopies], title: str) -> list[Written]:
    """Write every class that is not done; what each came to."""
    done = []
    with progress(title, sum(len(one.copies) for one in classes), "pairs") as bar:
        for number, one in enumerate(classes):
            mark = stage.work / "done" / f"{number}.json"
            found = read_mark(mark)
            if found is None:
                found = write_class(one)
                write_json(mark, found)
                bar.advance(len(one.copies))
            else:
                bar.advance(len(one.copies), resumed=True)
            done.append(found)
    return done


def read_mark(path: Path) -> Written | None:
    try:
        pairs, left_out, uncaptioned = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return Written(pairs, [Left(*one) for one in left_out], uncaptioned)


def write_class(one: ClassCopies) -> Written:
    """Images, `.txt` files and the meta file of a class."""
    shutil.rmtree(one.folder, ignore_errors=True)  # what a killed run left of it
    one.folder.mkdir(parents=True)
    meta, left_out, uncaptioned = {}, [], 0
    for copy, data in read(one.copies):
        row = copy.row
        fault = unfit(row, data)
        if fault:
            left_out.append(Left(row["record"]["shard"], row["record"]["key"], *fault))
            continue
        (one.folder / f"{copy.name}.{row['ext']}").write_bytes(data)
        if row["caption"] is None:
            uncaptioned += 1
        else:
            (one.folder / f"{copy.name}.txt").write_bytes(row["caption"].encode())
        meta[f"{copy.name}.{row['ext']}"] = copy.about
    if one.meta is not None:
        order = {f"{copy.name}.{copy.row['ext']}": at for at, copy in enumerate(one.copies)}
        write_json(one.meta, {name: meta[name] for name in sorted(meta, key=order.__getitem__)})
    return Written(len(meta), sorted(left_out), uncaptioned)


def read(copies: list[Copy]) -> Iterator[tuple[Copy, bytes | ReactvlError]]:
    """The pairs with their images, in the order in which they lie in the pool."""
    places = [(copy.row["shard_path"], copy.row["offset"], copy.row["size"]) for copy in copies]
    return ((copies[number], data) for number, data in read_many(places))


def unfit(row: dict[str, Any], data: bytes | ReactvlError) -> tuple[str, str] | None:
    """(reason, detail) why an image cannot be copied."""
    if isinstance(data, ReactvlError):
        return "unreadable image", str(data)
    if row["ext"] not in IMAGE_EXTENSIONS:
        return "not an image", f"its extension {row['ext']!r} is none of {', '.join(IMAGE_EXTENSIONS)}"
    digest = row["record"].get("sha256")
    if digest and hashlib.sha256(data).digest() != digest:
        return "changed image", f"shard {row['shard_path']}: its bytes at {row['offset']:,} changed"
    return None
