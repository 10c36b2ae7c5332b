"""Lists as their users give them: a text file with one entry a line, or the entries with commas between."""

from pathlib import Path

from reactvl.manifest import ReactvlError

SUFFIXES = (".txt", ".toml", ".json")


def listed(given: str | Path, what: str) -> tuple[list[tuple[str, str]], str]:
    """The entries of a text file or of a comma list, each with its place, and what to call their source in a message.

    Runs of white space count as one space. In a file, blank lines and lines starting with `# ` are passed over, and a byte
    order mark is taken off. Raises ReactvlError for a file that is missing or not UTF-8.
    """
    if isinstance(given, Path) or is_path(given):
        lines = read_text(Path(given), what).splitlines()
        kept = [
            (f"{given}, line {number}", squeezed(line))
            for number, line in enumerate(lines, 1)
            if line.strip() and not line.startswith("# ")
        ]
        return kept, str(given)
    parts = [squeezed(part) for part in given.split(",")]
    return [(f"{what}, entry {number}", part) for number, part in enumerate(parts, 1) if part], what


def is_path(text: str) -> bool:
    """Whether text names a file rather than spells a list: it exists, or looks like one and has no comma or bar."""
    if "\n" in text or len(text) > 1024:
        return False
    try:
        if Path(text).is_file():
            return True
    except OSError:  # longer than a file's name can be
        return False
    return not {",", "|"} & set(text) and (text.lower().endswith(SUFFIXES) or "/" in text)


def read_text(path: Path, what: str) -> str:
    """A file's text; ReactvlError says what is wrong with it."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise ReactvlError(f"{path}: is not UTF-8 text ({fault.reason} at byte {fault.start:,})") from None
    except FileNotFoundError:
        raise ReactvlError(
            f"{path}: no such file of {what}; give a text file with one a line, or a comma list"
        ) from None
    except OSError as fault:
        raise ReactvlError(f"{path}: cannot be read as a file of {what} ({fault.strerror})") from None


def squeezed(text: str) -> str:
    return " ".join(text.split())
