"""Class names as their users give them: a file, a comma list, or a Python list."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from reactvl.manifest import ReactvlError


def read_classes(classes: str | Path | Sequence[str]) -> list[str]:
    """Class names in the order given, which is the order of their ids.

    `classes` is a list; the path of a UTF-8 text file with one name a line (blank lines and lines starting with `# `
    are passed over); or the names themselves, separated by commas. Two classes of equal name are two classes (ImageNet
    has two "missile"): they are kept apart by their ids, with a warning. Raises ReactvlError for a missing file, an
    empty list or an empty name.
    """
    if not isinstance(classes, str | Path):
        names, source = [clean(name, "classes") for name in classes], "classes"
        for number, name in enumerate(names):
            if not name:
                raise ReactvlError(f"classes: name {number} is empty")
    else:
        names, source = listed(classes, "classes")
    if not names:
        raise ReactvlError(f"{source}: holds no class name")
    seen: dict[str, int] = {}
    for number, name in enumerate(names):
        if name in seen:
            warnings.warn(
                f"{source}: class {number} has the name of class {seen[name]}, '{name}'; they stay two classes",
                stacklevel=2,
            )
        seen.setdefault(name, number)
    return names


def listed(given: str | Path, what: str) -> tuple[list[str], str]:
    """The entries of a file (one a line) or of a comma list, and what to call their source in a message."""
    text = str(given)
    path = Path(text)
    if isinstance(given, Path) or is_path(text):
        if not path.is_file():
            raise ReactvlError(f"{path}: no such file of {what}; give a text file with one a line, or a comma list")
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as fault:
            raise ReactvlError(f"{path}: is not UTF-8 text ({fault.reason} at byte {fault.start:,})") from None
        return [clean(line, path) for line in lines if line.strip() and not line.startswith("# ")], str(path)
    return [clean(part, what) for part in text.split(",") if part.strip()], what


def is_path(text: str) -> bool:
    """Whether text names a file rather than spells a list: it exists, or looks like one and has no comma."""
    if "\n" in text or len(text) > 1024:
        return False
    return Path(text).is_file() or ("," not in text and (text.endswith(".txt") or "/" in text))


def clean(name: str, source: object) -> str:
    if not isinstance(name, str):
        raise ReactvlError(f"{source}: {name!r} is not text; a class of several names is given by its first")
    return " ".join(name.split())
