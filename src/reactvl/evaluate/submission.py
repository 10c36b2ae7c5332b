"""The leaderboard's zip out of a folder of prediction files: `reactvl evaluate --submission DIR`.

Files of one data set (a seed each, as ELEVATER's toolkit writes them) become one entry: `num_trainable_params` is averaged,
`rnd_seeds` and `predictions` are put one behind the other, all other keys must agree. The zip holds one
`all_predictions.json`, `{"data": [...]}`, numbers at 6 decimals. Predictions are checked and copied a few rows at a time, so
that ImageNet's 50,000 x 1,000 take no memory; equal files give equal bytes.
"""

import dataclasses
import mmap
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np

from reactvl.evaluate.elevater_files import CELLS, DECIMALS, KEYS, rows_json
from reactvl.manifest import ReactvlError, replacing
from reactvl.progress import progress, say
from reactvl.tasks import benchmarks

NAME = "all_predictions"
ZIP = f"{NAME}.zip"
AVERAGED, SEEDS = "num_trainable_params", "rnd_seeds"
MEMBER_DATE = (1980, 1, 1, 0, 0, 0)  # the zip's bytes depend on the predictions alone
SEEDS_APART, ROWS_APART, BEGIN, END = b"],[", b",", b"[[", b"]]"
ROW = re.compile(rb"\[[^\[\]]*\]")


@dataclasses.dataclass(frozen=True)
class File:
    """A prediction file: its keys but for the predictions, and those as text, which stays on disk until it is read."""

    path: Path
    keys: dict[str, Any]
    predictions: memoryview

    @property
    def dataset(self) -> str:
        return self.keys["dataset_name"]


def merge(folder: Path) -> Path:
    """Merge the prediction files of `folder` into `folder/all_predictions.zip`; returns its path.

    Where the folder has none of its own but one folder in it has, that one is merged. Raises ReactvlError, which names the file
    and the key, for a file that is no prediction file, for files of a data set that disagree, and for a seed that stands twice;
    the data sets that ELEVATER's 20 lack are said, since the leaderboard has no average without them.
    """
    home = home_of(folder)
    files = [opened(path) for path in sorted(home.glob("*.json"))]
    groups: dict[str, list[File]] = {}
    for file in files:
        groups.setdefault(file.dataset, []).append(file)
    target = home / ZIP
    member = zipfile.ZipInfo(f"{NAME}.json", MEMBER_DATE)
    member.compress_type = zipfile.ZIP_DEFLATED
    with (
        progress("merging predictions", sum(file.predictions.nbytes for file in files), "bytes") as bar,
        replacing(target) as part,
        zipfile.ZipFile(part, "w") as archive,
        archive.open(member, "w", force_zip64=True) as out,
    ):
        out.write(b'{"data":[')
        counts = {}
        for name in sorted(groups):
            out.write(b"," if counts else b"")
            counts[name] = write_entry(out, groups[name], bar.advance)
        out.write(b"]}\n")
    report(target, groups, counts)
    return target


def home_of(folder: Path) -> Path:
    """The folder whose own files are merged."""
    if not folder.is_dir():
        raise ReactvlError(f"{folder}: no such folder; --submission takes one of prediction files (--save-predictions)")
    homes = sorted({path.parent for path in folder.rglob("*.json") if not hidden(path, folder)})
    if folder in homes:
        return folder
    if not homes:
        raise ReactvlError(
            f"{folder}: holds no prediction file (*.json); `reactvl evaluate --save-predictions` writes them"
        )
    if len(homes) > 1:
        names = ", ".join(str(home) for home in homes[:5]) + (", ..." if len(homes) > 5 else "")
        raise ReactvlError(f"{folder}: has prediction files of {len(homes)} entries; name one: {names}")
    return homes[0]


def hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def opened(path: Path) -> File:
    """A prediction file, checked but for the numbers; ReactvlError when it is none."""
    if not path.stat().st_size:
        raise ReactvlError(f"{path}: is empty; remove it, or write it again with --save-predictions")
    try:
        with path.open("rb") as file:
            raw = msgspec.json.decode(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, msgspec.ValidationError) as fault:
        raise ReactvlError(f"{path}: is no prediction file ({fault})") from None
    lacking = [key for key in KEYS if key not in raw]
    if lacking:
        raise ReactvlError(f"{path}: is no prediction file: it lacks {lacking[0]}")
    keys = {key: value_of(path, key, raw[key]) for key in raw if key != "predictions"}
    if not keys["dataset_name"] or not keys["rnd_seeds"]:
        raise ReactvlError(f"{path}: {'rnd_seeds' if keys['dataset_name'] else 'dataset_name'} is empty")
    return File(path, keys, memoryview(raw["predictions"]))


def value_of(path: Path, key: str, raw: msgspec.Raw) -> Any:
    """A key's value, checked where its type decides the merging."""
    kind = {
        "dataset_name": str,
        "model_name": str,
        "n_shot": int,
        "rnd_seeds": list[int],
        "num_trainable_params": int | float,
    }.get(key, Any)
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as fault:
        raise ReactvlError(f"{path}: {key}: {fault}") from None


def write_entry(out: IO[bytes], files: list[File], advance: Callable[[int], None]) -> int:
    """One data set's entry: the keys that its files share, then their predictions, seed by seed; returns how many images
    those are of."""
    files = sorted(files, key=lambda file: (file.keys["rnd_seeds"], file.path.name))
    out.write(msgspec.json.encode(shared(files))[:-1] + b',"predictions":')
    shape: tuple[int, int] | None = None  # images and classes of the first seed
    opening = b"[["
    for file in files:
        images = []  # of each seed
        for seed, rows, read in row_blocks(file):
            if seed == len(images):
                images.append(0)
                out.write(opening)
                opening = b"],["
            else:
                out.write(b",")
            out.write(rows_json(rows))
            images[-1] += len(rows)
            shape = shape or (0, rows.shape[1])
            if rows.shape[1] != shape[1]:
                raise ReactvlError(f"{file.path}: predictions: rows of {rows.shape[1]} and of {shape[1]} classes")
            advance(read)
        if len(images) != len(file.keys["rnd_seeds"]):
            raise ReactvlError(
                f"{file.path}: predictions of {len(images)} seeds, but rnd_seeds names {len(file.keys['rnd_seeds'])}"
            )
        shape = (shape[0] or images[0], shape[1])
        if set(images) != {shape[0]}:
            other = next(count for count in images if count != shape[0])
            raise ReactvlError(f"{file.path}: predictions: a seed has {other:,} images, another has {shape[0]:,}")
    out.write(b"]]}")
    return shape[0]


def shared(files: list[File]) -> dict[str, Any]:
    """The keys of a data set's entry but for the predictions; ReactvlError where its files do not belong together."""
    first = files[0]
    merged = dict(first.keys)
    for other in files[1:]:
        for key in {**first.keys, **other.keys}:
            if key in (AVERAGED, SEEDS):
                continue
            mine, theirs = first.keys.get(key), other.keys.get(key)
            if key not in first.keys or key not in other.keys or mine != theirs:
                raise ReactvlError(
                    f"{other.path}: {key} is {theirs!r}, but {mine!r} in {first.path.name}, of the same data set; an entry is of "
                    "one model and one way of adapting it, in a folder of its own"
                )
    merged[AVERAGED] = round(float(np.mean([file.keys[AVERAGED] for file in files])), DECIMALS)
    merged[SEEDS] = [seed for file in files for seed in file.keys[SEEDS]]
    holders: dict[int, File] = {}
    for file in files:
        for seed in file.keys[SEEDS]:
            if seed in holders:
                raise ReactvlError(
                    f"{file.path}: rnd_seeds: seed {seed} of {file.dataset} stands in {holders[seed].path.name} too; remove one"
                )
            holders[seed] = file
    return merged


def row_blocks(file: File) -> Iterator[tuple[int, np.ndarray, int]]:
    """The predictions of a file, some rows at a time: (number of the seed, rows float64 (n, C), bytes read).

    A block is of one seed. Raises ReactvlError for text that is not seeds x images x classes numbers.
    """
    text, rows, seed, begin, place = file.predictions, [], 0, 0, 0
    for found in ROW.finditer(text):
        gap = bytes(text[place : found.start()]).translate(None, b" \t\r\n")
        if gap != (ROWS_APART if place else BEGIN) and (gap != SEEDS_APART or not place):
            raise malformed(file)
        if rows and (gap == SEEDS_APART or len(rows) * len(rows[0]) >= CELLS):
            yield seed, np.array(rows), place - begin
            rows, begin = [], place
        seed += gap == SEEDS_APART
        place = found.end()
        try:
            row = msgspec.json.decode(text[found.start() : place], type=list[float])
        except msgspec.ValidationError as fault:
            raise ReactvlError(f"{file.path}: predictions: {fault}") from None
        if not row or (rows and len(row) != len(rows[0])):
            raise malformed(file)
        rows.append(row)
    if not rows or bytes(text[place:]).translate(None, b" \t\r\n") != END:
        raise malformed(file)
    yield seed, np.array(rows), place - begin


def malformed(file: File) -> ReactvlError:
    return ReactvlError(f"{file.path}: predictions are not lists of seeds x images x classes, every row of one length")


def report(target: Path, groups: dict[str, list[File]], counts: dict[str, int]) -> None:
    """Say what the zip holds, and what the leaderboard will miss."""
    for name, images in counts.items():
        known = benchmarks.head(benchmarks.raw_of(name)).test_images if name in benchmarks.names() else None
        if known not in (None, images):
            say(
                f"evaluate: {name}: predictions of {images:,} images; its test set has {known:,}, and the leaderboard takes no other"
            )
    lacking = [name for name in benchmarks.elevater() if name not in groups]
    kinds = {file.keys["n_shot"] for files in groups.values() for file in files}
    names = {file.keys["model_name"] for files in groups.values() for file in files}
    if len(kinds) > 1 or len(names) > 1:
        what = f"n_shot {sorted(kinds)}" if len(kinds) > 1 else f"models {', '.join(sorted(names))}"
        say(f"evaluate: {target}: its data sets are of different {what}; the leaderboard takes them as one entry")
    if lacking:
        more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
        say(
            f"evaluate: {target}: lacks {', '.join(lacking[:5])}{more} of ELEVATER's 20; there is no average without them"
        )
    say(f"evaluate: predictions of {len(groups)} data sets -> {target}")
