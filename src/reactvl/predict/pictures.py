"""Which pictures to classify, as text: folders, patterns, files, tar shards, and lists on standard input."""

import dataclasses
import glob
import hashlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from reactvl.manifest import ReactvlError
from reactvl.pool.images import BadImage
from reactvl.pool.patterns import braces
from reactvl.pool.reader import read_image
from reactvl.pool.tars import catalogue_or_fault, fingerprint
from reactvl.progress import progress
from reactvl.tasks.image_folder import is_image

STDIN = "-"
SHARD = ".tar"
Place = Path | tuple[Path, int, int]  # a file, or (shard, offset, size)


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures in order. `names`: a file's path, or `SHARD.tar/KEY.EXT`; `places`: where the bytes of each lie.

    `faults` are (name, reason) of what the shards hold and cannot give. `sha256` is of names, sizes and times: other
    pictures, or the same ones changed, have another.
    """

    names: list[str]
    places: list[Place]
    faults: list[tuple[str, str]]
    sha256: str

    def __len__(self) -> int:
        return len(self.names)

    def read(self, row: int) -> bytes:
        """The bytes of a picture; BadImage for one that is gone or cannot be opened, which does not end the run."""
        place = self.places[row]
        try:
            return place.read_bytes() if isinstance(place, Path) else read_image(*place)
        except OSError as fault:
            raise BadImage("unreadable file", str(fault.strerror)) from None
        except ReactvlError as fault:
            raise BadImage("unreadable shard", str(fault)) from None


def pictures(given: str | Path | Iterable[str | Path]) -> Pictures:
    """The pictures of folders (searched through, shards among them), patterns (`*`, `?`, `**`, `{00..09}`), files, `.tar`
    shards of webdataset's layout, and of `-`: paths on standard input, one a line or parted by NUL. Each once.

    A folder's and a pattern's are sorted; several entries keep their order. Raises ReactvlError for an entry that does
    not exist or yields nothing; a path on standard input that does not exist is a picture that cannot be read.
    """
    entries = [given] if isinstance(given, str | Path) else list(given)
    if not entries:
        raise ReactvlError("images: nothing given; name a folder, files, or a pattern such as 'photos/*.jpg'")
    files = list(dict.fromkeys(path for entry in entries for path in files_of(str(entry))))
    names, places, faults, seen = [], [], [], hashlib.sha256()
    shards = sum(is_shard(path) for path in files)
    with progress("reading the shards' headers", shards, "shards") as bar:
        for path in files:
            seen.update(json.dumps([str(path), state_of(path)]).encode())
            if not is_shard(path):
                names.append(str(path))
                places.append(path)
                continue
            found = catalogue_or_fault(path)
            names += [f"{path}/{sample.key}.{sample.ext}" for sample in found.samples]
            places += [(path, sample.offset, sample.size) for sample in found.samples]
            faults += [
                (f"{path}/{skipped.key}" if skipped.key else str(path), f"{skipped.reason}: {skipped.detail}")
                for skipped in found.skipped
            ]
            bar.advance()
    return Pictures(names, places, faults, seen.hexdigest())


def files_of(entry: str) -> list[Path]:
    """The files and shards that one entry names."""
    if entry == STDIN:
        return listed(sys.stdin.buffer.read())
    path = Path(entry).expanduser()
    if path.is_dir():
        files = under(path)
        if not files:
            raise ReactvlError(f"images {entry}: no image and no .tar in the folder or below")
        return files
    if path.exists():
        return [path]
    if glob.has_magic(entry) or "{" in entry:
        hits = (hit for text in braces(str(path)) for hit in matches(text))
        files = sorted({Path(hit) for hit in hits if Path(hit).is_file()})
        if not files:
            raise ReactvlError(f"images {entry}: the pattern matches no file")
        return files
    raise ReactvlError(f"images {entry}: no such file or folder")


def listed(data: bytes) -> list[Path]:
    """The paths of a list, parted by NUL where there is one (`find -print0`), else by line; taken as they stand."""
    parts = data.split(b"\0") if b"\0" in data else [line.removesuffix(b"\r") for line in data.split(b"\n")]
    paths = [Path(os.fsdecode(part)) for part in parts if part]
    if not paths:
        raise ReactvlError("images -: standard input names no file; give one path a line")
    return paths


def matches(pattern: str) -> Iterable[str]:
    """The names that a pattern without braces stands for."""
    return glob.iglob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no pattern with a root of its own


def under(folder: Path) -> list[Path]:
    """Images and shards in a folder and below, sorted by path; hidden ones are passed over, links to folders are not
    followed."""
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, name) for name in files if is_image(name) or is_shard(Path(name))]
    return sorted(found)


def is_shard(path: Path) -> bool:
    return path.suffix.lower() == SHARD and not path.name.startswith(".")


def state_of(path: Path) -> list | None:
    """What tells a file from a later one of its name; None where it cannot be looked at."""
    try:
        if is_shard(path):
            return list(fingerprint(path))
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]
