"""Which shards a pool is: braces, globs, folders and `::` joins, as users of webdataset and open_clip spell them."""

import glob
import re
from pathlib import Path

from reactvl.manifest import ReactvlError

MAX_EXPANSION = 1_000_000  # paths of one pattern: LAION-5B has 231,350 shards


def expand(pattern: str | Path | list[str] | list[Path]) -> list[Path]:
    """The shards that a pattern names: sorted, each once, all of them existing files.

    `pool/{00000..00897}.tar` and `{a,b}` (as in a shell, nested or several), `*`, `?`, `[...]` and `**`, a folder
    (its `*.tar`), several of them joined by `::` or given as a list. A path that exists as it stands is taken
    literally. Raises ReactvlError for a pattern that names nothing, a shard that is missing, and anything that is no
    local file.
    """
    patterns = [pattern] if isinstance(pattern, str | Path) else list(pattern)
    parts = [part.strip() for text in patterns for part in str(text).split("::")]
    if not any(parts):
        raise ReactvlError(
            "the pool is empty: give a folder of .tar files or a pattern such as 'pool/{00000..00009}.tar'"
        )
    shards = {shard for part in parts if part for shard in named(part)}
    return sorted(shards)


def named(pattern: str) -> list[Path]:
    """The shards of one pattern without `::`."""
    if re.match(r"^(pipe:|[a-zA-Z][a-zA-Z0-9+.-]+://)", pattern):
        raise ReactvlError(f"pool {pattern}: only local files can be read; fetch the shards first")
    path = Path(pattern).expanduser()
    if path.is_dir():
        found = sorted(path.glob("*.tar"))
        if not found:
            raise ReactvlError(f"pool {pattern}: the folder holds no .tar file")
        return found
    if path.is_file():
        return [path]
    found, missing = [], []
    for text in braces(str(path)):
        if glob.has_magic(text):
            hits = glob.glob(text, recursive=True)  # noqa: PTH207 - takes absolute patterns, which Path.glob refuses
            found += [Path(hit) for hit in hits if Path(hit).is_file()]
        elif Path(text).is_file():
            found.append(Path(text))
        else:
            missing.append(text)
    if missing:
        count = len(missing) + len(found)
        more = f" ({len(missing):,} of its {count:,} shards are missing)" if count > 1 else ""
        raise ReactvlError(f"pool {pattern}: {missing[0]} does not exist{more}")
    if not found:
        raise ReactvlError(f"pool {pattern}: matches no file")
    return found


def braces(pattern: str) -> list[str]:
    """Brace expansion as in bash: `{a,b}`, `{00..12}`, `{1..9..2}`, `{a..e}`, nested; a brace pair that is neither
    stays as it is.

    Raises ReactvlError for more than a million names, and for braces that do not pair up.
    """
    opening = pattern.find("{")
    if opening < 0:
        if "}" in pattern:
            raise ReactvlError(f"pool {pattern}: a }} has no {{ before it")
        return [pattern]
    closing = closing_brace(pattern, opening)
    inner = pattern[opening + 1 : closing]
    items = choices(inner)
    if items is None:
        items = ["{" + item + "}" for item in braces(inner)]
    tails = braces(pattern[closing + 1 :])
    if len(items) * len(tails) > MAX_EXPANSION:
        raise ReactvlError(f"pool {pattern}: names {len(items) * len(tails):,} shards; is a range mistyped?")
    return [pattern[:opening] + item + tail for item in items for tail in tails]


def closing_brace(pattern: str, opening: int) -> int:
    depth = 0
    for at in range(opening, len(pattern)):
        depth += {"{": 1, "}": -1}.get(pattern[at], 0)
        if depth == 0:
            return at
    raise ReactvlError(f"pool {pattern}: a {{ is never closed")


def choices(inner: str) -> list[str] | None:
    """What stands between two braces as its alternatives; None when it is neither a range nor a list."""
    if number := re.fullmatch(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?", inner):
        return numbers(*number.groups())
    if letter := re.fullmatch(r"([a-zA-Z])\.\.([a-zA-Z])(?:\.\.(-?\d+))?", inner):
        first, last = ord(letter[1]), ord(letter[2])
        return [chr(code) for code in steps(first, last, letter[3])]
    items = split_commas(inner)
    return [name for item in items for name in braces(item)] if len(items) > 1 else None


def numbers(first: str, last: str, step: str | None) -> list[str]:
    """`00..12` keeps its width: zero-padded when either end is written with a leading zero."""
    padded = any(end.lstrip("-").startswith("0") and len(end.lstrip("-")) > 1 for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    return [f"{number:0{width}d}" for number in steps(int(first), int(last), step)]


def steps(first: int, last: int, step: str | None) -> range:
    """An inclusive range in the direction of its ends; ReactvlError over a million numbers."""
    stride = abs(int(step)) if step else 1
    stride = stride or 1
    if abs(last - first) // stride >= MAX_EXPANSION:
        raise ReactvlError(
            f"pool: the range {first}..{last} names {abs(last - first) // stride + 1:,} shards; is it mistyped?"
        )
    return range(first, last + 1, stride) if first <= last else range(first, last - 1, -stride)


def split_commas(inner: str) -> list[str]:
    """Split at the commas that are in no inner brace."""
    items, depth, begin = [], 0, 0
    for at, letter in enumerate(inner):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            items.append(inner[begin:at])
            begin = at + 1
    return [*items, inner[begin:]]
