"""Benchmarks by name: ImageNet-1K, ELEVATER's 20 data sets and four more, as data in `known/NAME.toml`; in `more/` those
whose lists are no one's published evaluation.

    dtd = benchmark("dtd")
    dtd.class_names[0], dtd.templates[0]        # 'banded', 'a photo of a {} texture.'
    mine = benchmark("my-task.toml")            # a file of one's own, of the same keys

A file's keys: `name` and `aliases`; `metric` (accuracy, mean-per-class, roc_auc, 11point_mAP); `test_images`; `templates` (a
list, a named set such as "openai", or a text file beside it); `classes` as in any class file (`class_files`); and
`[elevater]`, where the data set lies under ELEVATER's root. The lists are those of CLIP's and ELEVATER's published
evaluations; a test holds them against checksums.
"""

import difflib
import functools
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import msgspec

from reactvl.manifest import ReactvlError
from reactvl.tasks.class_files import ClassFile, beside, classes_in, parsed
from reactvl.tasks.classes import ClassEntry
from reactvl.tasks.templates import read_templates

LEADING = re.compile(r"^(wds[-_/])?(vtab[-_/])?")

Metric = Literal["accuracy", "mean-per-class", "roc_auc", "11point_mAP"]


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a data set lies under ELEVATER's `classification/`: its folder, and in it the index of each split and the test
    images' archive. `multilabel`: an image has any number of labels."""

    folder: str
    train: str
    test: str
    archive: str
    val: str | None = None
    multilabel: bool = False


@dataclass(frozen=True)
class Benchmark:
    """What to classify and how it is scored; `classes` are in the order of the labels."""

    name: str
    aliases: tuple[str, ...]
    classes: tuple[ClassEntry, ...]
    templates: tuple[str, ...]
    metric: Metric
    test_images: int | None
    elevater: Layout | None

    @property
    def class_names(self) -> list[str]:
        """The display names; two classes of one name stay two."""
        return [entry.name for entry in self.classes]


class Head(msgspec.Struct):
    """A benchmark's file but for its classes."""

    name: str | None = None
    aliases: list[str] = []
    metric: Metric = "accuracy"
    test_images: int | None = None
    elevater: Layout | None = None


def benchmark(name: str | Path) -> Benchmark:
    """The benchmark of a name (data set's or ELEVATER's config name; case, `-`, `_` and a leading `wds_` do not matter) or of
    a `.toml` file. Raises ReactvlError for an unknown name, with the nearest known ones, and for a faulty file."""
    text = str(name)
    if isinstance(name, Path) or text.lower().endswith(".toml"):
        return read(parsed(Path(text)))
    found = known(text)
    if found is None:
        near = difflib.get_close_matches(folded(text), spellings(), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(dict.fromkeys(spellings()[one] for one in near))}?" if near else ""
        raise ReactvlError(
            f"benchmark {text}: no such one; {hint or 'known are ' + ', '.join(names())}"
            "; a benchmark of your own is given as the path of a .toml file"
        )
    return shipped(found)


def names() -> list[str]:
    """The data set names of the published benchmarks that come along, sorted."""
    return sorted(stems("known"))


def elevater() -> list[str]:
    """The data set names of ELEVATER's 20 (ImageNet-1K, which it reports beside them, is none of them), sorted."""
    return sorted(set(folders().values()) - {"imagenet-1k"})


def known(name: str) -> str | None:
    """The data set name of a benchmark in any spelling; None for an unknown one."""
    return spellings().get(folded(name))


def by_folder(folder: str) -> Benchmark | None:
    """The benchmark whose data lie under ELEVATER's root in a folder of this name; None for any other name."""
    return shipped(found) if (found := folders().get(folder)) else None


@functools.cache
def folders() -> dict[str, str]:
    """Folder under ELEVATER's root -> the data set's name."""
    return {layout.folder: name for name in names() if (layout := head(raw_of(name)).elevater)}


def metric_of(name: str) -> Metric | None:
    """The metric of a benchmark in any spelling; None for an unknown one."""
    found = known(name)
    return None if found is None else head(raw_of(found)).metric


def folded(name: str) -> str:
    """Letters and digits only, in lower case, without the leading `wds` and `vtab` of CLIP-benchmark's names."""
    return "".join(letter for letter in LEADING.sub("", name.lower().strip(), count=1) if letter.isalnum())


@functools.cache
def spellings() -> dict[str, str]:
    """Every folded name and alias -> the data set's name."""
    found = {}
    for name in [*stems("known"), *stems("more")]:
        given = head(raw_of(name))
        found |= dict.fromkeys(map(folded, (given.name, *given.aliases)), given.name)
    return found


@functools.cache
def stems(folder: str) -> tuple[str, ...]:
    """Names of the benchmarks' files in a folder of the package."""
    files = resources.files(__package__).joinpath(folder).iterdir()
    return tuple(entry.name.removesuffix(".toml") for entry in files if entry.name.endswith(".toml"))


@functools.cache
def raw_of(name: str) -> ClassFile:
    folder = "more" if name in stems("more") else "known"
    with resources.as_file(resources.files(__package__).joinpath(folder, f"{name}.toml")) as path:
        return parsed(path)


@functools.cache
def shipped(name: str) -> Benchmark:
    return read(raw_of(name))


def read(file: ClassFile) -> Benchmark:
    """The benchmark of a parsed file; a file of no name of its own has its stem."""
    given = head(file)
    if "templates" not in file.raw:
        raise ReactvlError(f"{file.path}: lacks templates; give a list of sentences with {{}}, or the name of a set")
    return Benchmark(
        name=given.name or file.path.stem,
        aliases=tuple(given.aliases),
        classes=tuple(classes_in(file)),
        templates=tuple(read_templates(beside(file.raw["templates"], file.path))),
        metric=given.metric,
        test_images=given.test_images,
        elevater=given.elevater,
    )


def head(file: ClassFile) -> Head:
    raw: Any = file.raw
    if not isinstance(raw, dict) or not {"class", "classes"} & set(raw):
        raise ReactvlError(f"{file.path}: is no benchmark: it lacks classes")
    try:
        return msgspec.convert({key: value for key, value in raw.items() if key in Head.__struct_fields__}, Head)
    except msgspec.ValidationError as fault:
        raise ReactvlError(f"{file.path}: {str(fault).replace('Object', 'the file').replace('`$.', '`')}") from None
