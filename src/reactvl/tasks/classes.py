"""Class names as their users give them: a file, a comma list, or a Python list; a class may have several names.

    red panda|lesser panda
    raccoon

A text file has one class a line, its names with `|` between; the first is the one shown. Example pictures and templates of
a single class need a TOML or JSON file: see `class_files`.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reactvl.manifest import ReactvlError
from reactvl.tasks.lists import is_path, listed, squeezed


@dataclass(frozen=True)
class ClassEntry:
    """One class. `name` is the one shown, and the first of `synonyms`, which are all its names and asked for each.

    `examples` are pictures of it; `templates`, where given, stand in for the task's.
    """

    name: str
    synonyms: tuple[str, ...]
    examples: tuple[Path, ...] = ()
    templates: tuple[str, ...] | None = None


Given = str | Path | Sequence[Any] | Mapping[str, Any]


def read_class_list(classes: Given) -> list[ClassEntry]:
    """The classes in the order given, which is the order of their ids.

    `classes` is the path of a UTF-8 text file with one class a line (blank lines and lines starting with `# ` are passed
    over), of a `.toml` or `.json` file (`class_files`), the classes themselves with commas between, a list whose items are
    text, lists of names or `ClassEntry`, or a mapping of name to further names. Text is parted at `|` into names; a list of
    names is taken as it is. Two classes of equal name are two classes (ImageNet has two "missile"), kept apart by their
    ids, with a warning. Raises ReactvlError, with file and line, for a missing file, an empty list or an empty name.
    """
    if isinstance(classes, str | Path):
        if Path(classes).suffix.lower() in (".toml", ".json") and (isinstance(classes, Path) or is_path(classes)):
            from reactvl.tasks.class_files import read_class_file

            source, entries = str(classes), read_class_file(Path(classes))
        else:
            lines, source = listed(classes, "classes")
            entries = [entry_of(text, place) for place, text in lines]
    else:
        source = "classes"
        if isinstance(classes, Mapping):
            classes = [[name, *([more] if isinstance(more, str) else more)] for name, more in classes.items()]
        entries = [
            entry_of(squeezed(item) if isinstance(item, str) else item, f"classes[{number}]")
            for number, item in enumerate(classes)
        ]
    if not entries:
        raise ReactvlError(f"{source}: holds no class name")
    warn_of_equal_names(entries, source)
    return entries


def read_classes(classes: Given) -> list[str]:
    """The display name of every class, as `read_class_list` reads them."""
    return [entry.name for entry in read_class_list(classes)]


def entry_of(given: Any, place: str) -> ClassEntry:
    """The class of a text (names with `|` between), a list of names, or a `ClassEntry`."""
    if isinstance(given, ClassEntry):
        return given
    if isinstance(given, str):
        names = given.split("|")
        if len(names) > 1 and not all(map(str.strip, names)):
            raise ReactvlError(f"{place}: '{given}' has an empty name; write a class as `name` or `name|another name`")
        return class_of(names, place)
    if isinstance(given, list | tuple):
        return class_of(given, place)
    raise ReactvlError(f"{place}: {given!r} is not text; give a class as its name, or as a list of its names")


def class_of(names: Sequence[Any], place: str, **more: Any) -> ClassEntry:
    """The class of these names, as they stand but for white space at their ends; a repeated one counts once."""
    kept: dict[str, None] = {}
    for name in names:
        if not isinstance(name, str):
            raise ReactvlError(f"{place}: the name {name!r} is not text")
        if not name.strip():
            raise ReactvlError(f"{place}: the class name is empty")
        if any(letter < " " for letter in name.strip()):
            raise ReactvlError(f"{place}: the name {name!r} holds a line break or another control character")
        kept[name.strip()] = None
    if not kept:
        raise ReactvlError(f"{place}: the class has no name")
    return ClassEntry(next(iter(kept)), tuple(kept), **more)


def warn_of_equal_names(entries: Sequence[ClassEntry], source: str) -> None:
    seen: dict[str, int] = {}
    for number, entry in enumerate(entries):
        if entry.name in seen:
            warnings.warn(
                f"{source}: class {number} has the name of class {seen[entry.name]}, '{entry.name}'; they stay two classes",
                stacklevel=3,
            )
        seen.setdefault(entry.name, number)
