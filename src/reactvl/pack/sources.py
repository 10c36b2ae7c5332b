"""What there is to pack: which kind of source it is, and which rows go to which shard."""

import csv
import hashlib
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from reactvl.manifest import ReactvlError, sha256_file
from reactvl.pool.copies import PLACE_DIGITS, SHARD_DIGITS
from reactvl.pool.images import NAMES
from reactvl.pool.tars import IMAGE_EXTENSIONS

Kind = Literal["files", "parquet", "folder", "csv"]
MAX_CELL = 1 << 20  # characters of one cell of a CSV
SEPARATORS = {"tab": "\t", "\\t": "\t", "comma": ","}


class Item(NamedTuple):
    """One row of a folder or a CSV: where its image lies and, in a CSV, its caption; `name` is how people find it."""

    key: str
    image: Path
    caption: str | None
    name: str


class Task(NamedTuple):
    """One shard to make: of `items`, or of what lies at `place` (img2dataset's subfolder or parquet file)."""

    shard: str
    kind: Kind
    place: Path
    items: tuple[Item, ...] = ()


class Source(NamedTuple):
    """A source that was looked at: its kind, what it holds in a hash, and its shards' tasks, made as they are asked for."""

    kind: Kind
    sha256: str
    names: list[str]
    tasks: Iterable[Task]


def look_at(source: Path, input_format: str, per_shard: int, columns: tuple[str, str, str]) -> Source:
    """The source at a path; ReactvlError when there is none or it is not what `input_format` says."""
    if not source.exists():
        raise ReactvlError(f"{source}: does not exist")
    kind = input_format if input_format != "auto" else kind_of(source)
    if (kind == "csv") != source.is_file():
        raise ReactvlError(f"{source}: input format {kind} is read from a {'file' if kind == 'csv' else 'folder'}")
    if kind == "csv":
        count = sum(1 for _ in rows(source, columns))
        items = (Item("", path, title, name) for path, title, name in rows(source, columns))
        return numbered(kind, source, sha256_file(source), items, count, per_shard)
    if kind == "folder":
        paths = images(source)
        listing = hashed(f"{path}\0{stamp(source / path)}" for path in paths)
        items = (Item("", source / path, None, path) for path in paths)
        return numbered(kind, source, listing, items, len(paths), per_shard)
    places = subfolders(source) if kind == "files" else parquets(source)
    if not places:
        raise ReactvlError(f"{source}: holds no {WANTED[kind]}")
    listing = hashed(f"{place.name}\0{stamp(path)}" for place in places for path in ingredients(kind, place))
    return Source(kind, listing, [place.stem for place in places], [Task(place.stem, kind, place) for place in places])


WANTED = {
    "files": "subfolders 00000/, 00001/, ... with images",
    "parquet": "00000.parquet, ... with a column of image bytes",
}


def kind_of(source: Path) -> Kind:
    """Which kind of source lies there, by what img2dataset and open_clip write."""
    if source.is_file():
        if source.suffix.lower() not in (".csv", ".tsv"):
            raise ReactvlError(f"{source}: is no folder, .csv or .tsv; say what it is with --input-format")
        return "csv"
    if any(source.glob("*.tar")):
        raise ReactvlError(f"{source}: holds shards already; give it to `reactvl embed` as it is")
    if any(place.with_suffix(".parquet").is_file() for place in subfolders(source)):
        return "files"
    if parquets(source):
        return "parquet"
    return "folder"


def subfolders(source: Path) -> list[Path]:
    """img2dataset's `00000/`, `00001/`, ... in order."""
    return sorted(place for place in source.iterdir() if place.name.isdecimal() and place.is_dir())


def parquets(source: Path) -> list[Path]:
    """img2dataset's `00000.parquet`, ... that hold the images themselves, in order."""
    found = sorted(path for path in source.glob("*.parquet") if path.stem.isdecimal())
    return [path for path in found if image_column(path)]


def image_column(path: Path) -> str | None:
    """The column of image bytes, which img2dataset names by their extension (`jpg`); None where there is none.

    ReactvlError for a file that is no parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as fault:
        raise ReactvlError(f"{path}: cannot be read as a parquet file ({str(fault).splitlines()[0]})") from None
    binary = (pa.types.is_binary, pa.types.is_large_binary)
    return next(
        (field.name for field in schema if field.name in IMAGE_EXTENSIONS and any(k(field.type) for k in binary)), None
    )


def ingredients(kind: Kind, place: Path) -> list[Path]:
    """The files that a shard of img2dataset's is made of."""
    if kind == "parquet":
        return [place]
    side = place.with_suffix(".parquet")
    return [*sorted(path for path in place.iterdir() if path.is_file()), *([side] if side.is_file() else [])]


def numbered(kind: Kind, place: Path, digest: str, items: Iterator[Item], count: int, per_shard: int) -> Source:
    """Rows in order into shards of `per_shard`, named and keyed as img2dataset does."""
    if not count:
        what = "no line but its header" if kind == "csv" else f"no image (.{', .'.join(sum(NAMES.values(), ()))})"
        raise ReactvlError(f"{place}: holds {what}")
    shards = -(-count // per_shard)
    digits = max(SHARD_DIGITS, len(str(shards - 1))), max(PLACE_DIGITS, len(str(per_shard - 1)))

    names = [f"{number:0{digits[0]}d}" for number in range(shards)]

    def tasks() -> Iterator[Task]:
        for name in names:
            members = enumerate(islice(items, per_shard))
            keyed = tuple(item._replace(key=f"{name}{at:0{digits[1]}d}") for at, item in members)
            yield Task(name, kind, place, keyed)

    return Source(kind, digest, names, tasks())


def images(folder: Path) -> list[str]:
    """Paths of all images under a folder, relative to it, sorted; hidden files and folders are passed over."""
    found = []
    for home, inner, names in os.walk(folder):
        inner[:] = [name for name in inner if not name.startswith(".")]
        wanted = (
            name for name in names if not name.startswith(".") and Path(name).suffix[1:].lower() in IMAGE_EXTENSIONS
        )
        found.extend(os.path.relpath(os.path.join(home, name), folder) for name in wanted)  # noqa: PTH118 - quicker
    return sorted(found)


def stamp(path: Path) -> str:
    """Size and time of a file; what tells a changed file from the one that was packed."""
    try:
        stat = path.stat()
    except OSError:
        return f"{path.name} gone"
    return f"{path.name} {stat.st_size} {stat.st_mtime_ns}"


def hashed(lines: Iterable[str]) -> str:
    total = hashlib.sha256()
    for line in lines:
        total.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return total.hexdigest()


def rows(path: Path, columns: tuple[str, str, str]) -> Iterator[tuple[Path, str | None, str]]:
    """(image, caption, place in the file) of every line of a CSV; ReactvlError for one that is none, and for columns
    that it lacks. Relative paths count from the CSV's folder."""
    img_key, caption_key, separator = columns
    csv.field_size_limit(MAX_CELL)
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        first = file.readline()
        file.seek(0)
        sign = SEPARATORS.get(separator, separator)
        if sign == "auto":
            sign = "\t" if "\t" in first else ","
        if len(sign) != 1:
            raise ReactvlError(f"csv_separator {separator!r}: use auto, comma, tab or one sign")
        lines = csv.DictReader(file, delimiter=sign)
        try:
            lacking = [name for name in (img_key, caption_key) if name not in (lines.fieldnames or [])]
            if lacking:
                has = ", ".join(lines.fieldnames or []) or "none"
                raise ReactvlError(
                    f"{path}: has no column {lacking[0]!r} (it has {has}); name yours with --csv-img-key, --csv-caption-key"
                )
            for line in lines:
                name = line[img_key] or ""
                yield path.parent / name if name else Path(), line[caption_key], f"line {lines.line_num}: {name}"
        except csv.Error as fault:
            raise ReactvlError(f"{path}: line {lines.line_num}: {fault}") from None
