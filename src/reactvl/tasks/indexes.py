"""ELEVATER's two kinds of index: which images a split has, where they lie, and their labels.

`.txt`, a line an image, labels counted from 0, several with commas between; only the path may hold spaces:

    test.zip@inner/path.jpg 3
    test.zip@another path.jpg 0,7

`.json` as COCO has it: `images` (`id`, `file_name` as the path above, or the inner path with the archive as `zip_file`),
`annotations` (`image_id`, `category_id`) and `categories` (`id`, `name`). The label of a category is its place among the
sorted ids, so that ids may begin at 0 or at 1; the images are in the order of their ids, as in ELEVATER's predictions.
"""

import re
from pathlib import Path
from typing import NamedTuple

import msgspec

from reactvl.manifest import ReactvlError
from reactvl.tasks.lists import read_text

LABELS = re.compile(r"[0-9]{1,9}(,[0-9]{1,9})*")


class Entry(NamedTuple):
    """An image of an index: the archive it lies in ("" for a file of its own), its name there, its labels; `fault` says
    why it cannot be used."""

    archive: str
    name: str
    labels: tuple[int, ...]
    fault: str = ""

    @property
    def path(self) -> str:
        """As the index has it."""
        return f"{self.archive}@{self.name}" if self.archive else self.name


class Index(NamedTuple):
    """The images of a split in order, and the names of the labels where the index has them."""

    entries: list[Entry]
    names: list[str] | None


class Picture(msgspec.Struct):
    """One of `images`."""

    id: int
    file_name: str
    zip_file: str | None = None


class Annotation(msgspec.Struct):
    """One of `annotations`."""

    image_id: int
    category_id: int


class Category(msgspec.Struct):
    """One of `categories`."""

    id: int
    name: str


class Coco(msgspec.Struct):
    """A `.json` index; what else stands in it has no meaning here."""

    images: list[Picture]
    annotations: list[Annotation]
    categories: list[Category]


def read_index(path: Path) -> Index:
    """An index by its extension; ReactvlError, with the place, for one that cannot be read."""
    return read_coco(path) if path.suffix.lower() == ".json" else Index(read_lines(path), None)


def read_lines(path: Path) -> list[Entry]:
    """The images of a `.txt` index; blank lines are passed over."""
    entries = []
    for number, line in enumerate(read_text(path, "images").split("\n"), 1):
        line = line.strip()
        if not line:
            continue
        place, _, labels = line.rpartition(" ")
        if LABELS.fullmatch(labels) and place.strip():
            entries.append(entry_of(place.strip(), tuple(int(label) for label in labels.split(","))))
        elif "." in labels or not place:  # the whole line is a path: an image without a label
            entries.append(entry_of(line, ()))
        else:
            fault = f"line {number} of {path.name} ends in '{labels[:20]}', which is no label"
            entries.append(entry_of(place.strip(), (), fault))
    return entries


def read_coco(path: Path) -> Index:
    """A `.json` index."""
    try:
        index = msgspec.json.decode(read_text(path, "images"), type=Coco)
    except msgspec.DecodeError as fault:
        raise ReactvlError(
            f"{path}: is no index of images, annotations and categories ({str(fault).replace('Object', 'it')})"
        ) from None
    except RecursionError:
        raise ReactvlError(f"{path}: is nested too deep to be an index") from None
    names = {category.id: category.name for category in index.categories}
    if not names or len(names) != len(index.categories):
        raise ReactvlError(f"{path}: its categories are {'not told apart by their ids' if names else 'none'}")
    label = {category: place for place, category in enumerate(sorted(names))}
    labels: dict[int, list[int]] = {}
    strange: dict[int, int] = {}
    for annotation in index.annotations:
        if annotation.category_id in label:
            labels.setdefault(annotation.image_id, []).append(label[annotation.category_id])
        else:
            strange[annotation.image_id] = annotation.category_id
    entries = []
    for image in sorted(index.images, key=lambda image: image.id):
        fault = f"its category {strange[image.id]} is none of the categories" if image.id in strange else ""
        place = f"{image.zip_file}@{image.file_name}" if image.zip_file else image.file_name
        entries.append(entry_of(place, tuple(labels.get(image.id, ())), fault))
    return Index(entries, [names[category] for category in sorted(names)])


def entry_of(place: str, labels: tuple[int, ...], fault: str = "") -> Entry:
    archive, at, name = place.replace("\\", "/").partition("@")
    return Entry(archive, name, labels, fault) if at else Entry("", archive, labels, fault)
