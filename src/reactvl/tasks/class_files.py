"""Class lists that say more than names, in TOML or JSON.

    [[class]]                                   # JSON: {"class": [{"name": "red panda", "synonyms": [...], ...}]}
    name = "red panda"
    synonyms = ["lesser panda", "firefox"]      # further names
    examples = ["photos/panda-1.jpg"]           # pictures of it, relative to this file
    templates = ["a photo of a {}, a mammal."]  # instead of the task's

A plain list says less: `classes = ["raccoon", ["red panda", "lesser panda"], "sea otter|otter"]` (a class with several names
is a list of them, or text with `|` between), and so does a mapping of name to further names: `[classes]` with
`"red panda" = ["lesser panda"]` and `raccoon = []`. In JSON the list or the mapping may be the whole file. Templates beside
the classes hold for every class that has none of its own. A benchmark's file (`benchmarks`) is a class file too.
"""

import dataclasses
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from reactvl.manifest import ReactvlError
from reactvl.tasks.classes import ClassEntry, class_of, entry_of, read_class_list
from reactvl.tasks.lists import read_text
from reactvl.tasks.templates import checked, read_templates

KEYS = ("class", "classes")
BESIDE = ("name", "aliases", "metric", "test_images", "templates", "elevater")  # of a benchmark's file
OPEN_CLIP = "open_clip"


class Detailed(msgspec.Struct, forbid_unknown_fields=True):
    """A class as a table."""

    name: str
    synonyms: list[str] = []
    examples: list[str] = []
    templates: list[str] | None = None


class Pairs(dict):
    """A JSON object that remembers all its pairs: two classes of one name stay two."""

    def __init__(self, pairs: list[tuple[str, Any]]):
        super().__init__(pairs)
        self.pairs = pairs


@dataclasses.dataclass(frozen=True)
class ClassFile:
    """A parsed file: where it lies, its text, and what that says (`Pairs` for every object of JSON)."""

    path: Path
    text: str
    raw: Any


def read_class_file(path: Path) -> list[ClassEntry]:
    """The classes of a `.toml` or `.json` file; ReactvlError names the file and the line or class at fault."""
    file = parsed(path)
    entries = classes_in(file)
    if is_whole(file.raw) and "templates" in file.raw:
        shared = tuple(read_templates(beside(file.raw["templates"], path)))
        entries = [dataclasses.replace(entry, templates=entry.templates or shared) for entry in entries]
    return entries


def parsed(path: Path) -> ClassFile:
    """A TOML or JSON file; ReactvlError with the line for one that is neither."""
    text = read_text(path, "classes")
    try:
        if path.suffix.lower() == ".toml":
            return ClassFile(path, text, tomllib.loads(text))
        return ClassFile(path, text, json.loads(text, object_pairs_hook=Pairs))
    except tomllib.TOMLDecodeError as fault:
        raise ReactvlError(f"{path}: is not TOML: {fault}") from None
    except json.JSONDecodeError as fault:
        raise ReactvlError(f"{path}: is not JSON: {fault.msg} (at line {fault.lineno}, column {fault.colno})") from None
    except (RecursionError, ValueError) as fault:  # nested too deep; a number of thousands of digits
        raise ReactvlError(f"{path}: cannot be read ({fault})") from None


def classes_in(file: ClassFile) -> list[ClassEntry]:
    """The classes of a class file or a benchmark's file, without the templates beside them."""
    path, raw = file.path, file.raw
    if is_whole(raw):
        strange = sorted(set(raw) - set(KEYS) - set(BESIDE))
        if strange:
            raise ReactvlError(
                f"{path}: has the unknown key '{strange[0]}'; beside the classes may stand {', '.join(BESIDE)}"
            )
        if len(getattr(raw, "pairs", raw)) != len(raw) or all(key in raw for key in KEYS):
            raise ReactvlError(f"{path}: gives its classes, or another key, twice")
        raw = raw["class"] if "class" in raw else raw["classes"]
        if isinstance(raw, str):
            return named(raw, path)
    if isinstance(raw, dict):
        raw = [(name, more) for name, more in getattr(raw, "pairs", raw.items())]
    if not isinstance(raw, list):
        raise ReactvlError(f"{path}: its classes are {raw!r:.80}, wanted a list, or a mapping of name to further names")
    if not raw:
        raise ReactvlError(f"{path}: holds no class name")
    places = Places(file)
    return [one(given, places.of(number, given), path) for number, given in enumerate(raw)]


def is_whole(raw: Any) -> bool:
    """Whether an object is a class file's, and not itself a mapping of name to further names."""
    return isinstance(raw, dict) and any(key in raw for key in KEYS)


def named(given: str, path: Path) -> list[ClassEntry]:
    """The classes that `classes = "..."` stands for: ImageNet's of open_clip, or those of a text file beside this one."""
    if given == OPEN_CLIP:
        from reactvl.clip_imports import open_clip

        return [ClassEntry(name, (name,)) for name in open_clip.IMAGENET_CLASSNAMES]
    if not given.lower().endswith(".txt"):
        raise ReactvlError(f"{path}: classes = '{given}'; wanted a list, a text file beside it, or '{OPEN_CLIP}'")
    return read_class_list(path.parent / given)


def beside(templates: Any, path: Path) -> str | Path | list[str]:
    """The templates of a file: a list, a named set, or the path, from the file's folder, of a text file."""
    if isinstance(templates, str):
        return path.parent / templates if templates.lower().endswith(".txt") else templates
    if not isinstance(templates, list) or not all(isinstance(one, str) for one in templates):
        raise ReactvlError(f"{path}: templates = {templates!r:.80}; wanted a list of text, or the name of a set")
    return templates


def one(given: Any, place: str, path: Path) -> ClassEntry:
    """A class as it stands in a list: a table, a pair of a mapping, a list of names, or text."""
    if isinstance(given, dict):
        return detailed(given, place, path)
    if isinstance(given, tuple):
        name, more = given
        if not isinstance(more, list | str):
            raise ReactvlError(f"{place}: the further names of '{name}' are {more!r:.80}, wanted a list of text")
        return class_of([name, *([more] if isinstance(more, str) else more)], place)
    return entry_of(given, place)


def detailed(given: dict, place: str, path: Path) -> ClassEntry:
    if len(getattr(given, "pairs", given)) != len(given):
        raise ReactvlError(f"{place}: gives a key twice")
    try:
        table = msgspec.convert(dict(given), Detailed)
    except msgspec.ValidationError as fault:
        what = str(fault).replace("Object", "the class").replace("`$", "`class").replace("field", "key")
        raise ReactvlError(f"{place}: {what}; it may have {', '.join(Detailed.__struct_fields__)}") from None
    if table.templates == []:
        raise ReactvlError(f"{place}: its list of templates is empty; leave the key out for the task's")
    return class_of(
        [table.name, *table.synonyms],
        place,
        examples=tuple(example(path.parent / name, place) for name in table.examples),
        templates=None if table.templates is None else tuple(checked(one, place) for one in table.templates),
    )


def example(picture: Path, place: str) -> Path:
    if not picture.is_file():
        what = "is a folder; name its pictures one by one" if picture.is_dir() else "no such picture"
        raise ReactvlError(f"{place}: example {picture}: {what}")
    return picture


class Places:
    """What to call a class in a message: its number from 1, and its line where the file's text tells it.

    The parsers give no lines, so they are found in the text: the class's `[[class]]`, or the one line that holds its name.
    """

    def __init__(self, file: ClassFile):
        self.path = file.path
        self.headers: list[int] = []
        self.lines: dict[str, list[int]] = {}
        for number, line in enumerate(file.text.splitlines(), 1):
            if re.match(r"\s*\[\[\s*(class|\"class\"|'class')\s*\]\]", line):
                self.headers.append(number)
            for match in re.finditer(r"\"([^\"]*)\"|'([^']*)'|^\s*([\w-]+)\s*=", line):
                self.lines.setdefault(next(text for text in match.groups() if text is not None), []).append(number)

    def of(self, number: int, given: Any) -> str:
        lines = self.headers[number : number + 1] or self.lines.get(first_name(given), [])
        return f"{self.path}, class {number + 1}" + (f" (line {lines[0]})" if len(lines) == 1 else "")


def first_name(given: Any) -> str:
    """The text that a class is known by in its file, whatever is wrong with it."""
    if isinstance(given, dict):
        given = given.get("name")
    if isinstance(given, tuple | list):
        given = given[0] if given else None
    return given if isinstance(given, str) else ""
