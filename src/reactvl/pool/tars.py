"""The catalogue of a shard: its samples, joined by key, with the place of each image and the text that goes with it.

A sample is the members of one key: `KEY.EXT`, where the key is the name up to the first dot of its base name, folders
included (webdataset's rule). Members of one key are joined wherever they stand; a second set of members under a key
that is taken is listed and left out, never merged.
"""

import contextlib
import gc
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from reactvl.manifest import ReactvlError
from reactvl.pool.headers import Tar
from reactvl.pool.records import (
    SideFile,
    caption_of,
    checked_captions,
    fields_of,
    parsed,
    read_side_file,
    side_path,
    status,
    word,
)

# open_clip's `jpg;png;jpeg;webp`, then the other names of what images.FORMATS reads; of a sample's images the first counts
IMAGE_EXTENSIONS = ("jpg", "png", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "jpe", "jfif", "apng")
ENDS = 64 * 1024  # bytes of each end of a shard that its fingerprint hashes
MAX_TEXT = 1 << 20  # bytes of a caption or of a sample's json
KEY = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
RESERVED = re.compile(r"__[^/]*__($|/)")


Members = dict[str, tuple[int, int, bytes]]  # (offset, size, body) by lower-case extension; bodies of text only


class Sample(NamedTuple):
    """One sample with an image.

    `caption`: what the `captions` option asks for, exactly as written; None without it. `status`: img2dataset's word on
    the download, None where there is none. `extra`: (offset, size) of every member but the image, by lower-case
    extension. `fields`: the scalar fields of its json and of its row in the side file (`records.py`).
    """

    key: str
    ext: str
    offset: int
    size: int
    caption: str | None
    url: str | None
    status: str | None
    extra: dict[str, tuple[int, int]]
    fields: dict[str, str | int | float | bool]


class Skipped(NamedTuple):
    """A sample (or, with key "", a shard) that is left out: a reason for counting, and the details."""

    key: str
    reason: str
    detail: str


class Catalogue(NamedTuple):
    samples: list[Sample]
    skipped: list[Skipped]
    damaged_json: int  # samples kept although their json cannot be parsed
    fetched: Mapping[str, int] = MappingProxyType(
        {}
    )  # downloads by how they ended, as the side file says (`records.outcome`)


class Fingerprint(NamedTuple):
    """What tells a shard from another of its name: bytes, modification time, SHA-256 (hex) of its first and last 64
    KiB."""

    size: int
    mtime_ns: int
    ends_sha256: str


def scan(path: Path | str) -> list[Sample]:
    """The samples of a shard that have an image, in the order of the shard; ReactvlError when it cannot be read at
    all."""
    try:
        found = catalogue(path)
    except OSError as fault:
        raise ReactvlError(f"shard {path}: cannot be read ({fault.strerror})") from None
    if not found.samples and any(skipped.reason == "damaged shard" for skipped in found.skipped):
        raise ReactvlError(f"shard {path}: is no tar file, or a damaged one ({found.skipped[0].detail})")
    return found.samples


def catalogue(path: Path | str, captions: str = "auto") -> Catalogue:
    """The samples of a shard and what is left out of it; OSError when the file cannot be read.

    `captions` says where they stand: `auto` (`.txt`, else the json's `caption`, else the side file's), `txt`,
    `json:FIELD` or `parquet:FIELD`; ReactvlError for another spelling.
    """
    kind, field = checked_captions(captions)
    with no_collection():
        return _catalogue(path, kind, field)


def catalogue_or_fault(path: Path | str, captions: str = "auto") -> Catalogue:
    """`catalogue`; of a file that cannot be read, one without samples that says so."""
    try:
        return catalogue(path, captions)
    except OSError as fault:
        return Catalogue([], [Skipped("", "unreadable shard", fault.strerror or str(fault))], 0)


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Without Python's cyclic collector: it would go through all objects of the process again and again while a shard's
    samples, in which there is no cycle, are made."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _catalogue(path: Path | str, kind: str, field: str) -> Catalogue:
    with Tar(path) as tar:
        groups, skipped = grouped(tar)
    side = read_side_file(path, groups.keys())
    if side.fault:
        skipped.append(Skipped("", "damaged side file", side.fault))
    elif kind == "parquet" and groups and not side_path(path).is_file():
        skipped.append(Skipped("", "no side file", f"captions are asked of {side_path(path).name}, which is not there"))
    damaged, samples = 0, []
    for key, members in groups.items():
        ext = next((ext for ext in IMAGE_EXTENSIONS if ext in members), None)
        if ext is None:
            have = ", ".join(f".{ext}" for ext in members)
            skipped.append(Skipped(key, "no image", f"it has {have} and none of .{', .'.join(IMAGE_EXTENSIONS)}"))
            continue
        too_long = next((kind for kind in ("txt", "json") if members.get(kind, (0, 0, b""))[1] > MAX_TEXT), None)
        if too_long:
            size = members[too_long][1]
            detail = f".{too_long} has {size:,} bytes, at most {MAX_TEXT:,} are read"
            skipped.append(Skipped(key, "oversized text", detail))
            continue
        record = parsed(members["json"][2]) if "json" in members else {}
        damaged += record is None
        samples.append(sample_of(key, ext, members, record, side, (kind, field)))
    return Catalogue(samples, skipped, damaged, side.fetched)


def sample_of(
    key: str, ext: str, members: Members, record: dict | None, side: SideFile, captions: tuple[str, str]
) -> Sample:
    beside = side.rows.get(key)
    url, said = word(record, "url"), status(record)
    return Sample(
        key=key,
        ext=ext,
        offset=members[ext][0],
        size=members[ext][1],
        caption=caption_of(*captions, members["txt"][2] if "txt" in members else None, record, beside),
        url=url if url is not None else word(beside, "url"),
        status=said if said is not None else status(beside),
        extra={other: (place[0], place[1]) for other, place in members.items() if other != ext},
        fields=fields_of(record, beside),
    )


def fingerprint(path: Path | str) -> Fingerprint:
    """The fingerprint of a shard as it lies there now; OSError when it cannot be read."""
    with open(path, "rb") as file:
        stat = os.fstat(file.fileno())
        ends = hashlib.sha256(file.read(ENDS))
        if stat.st_size > ENDS:
            file.seek(max(ENDS, stat.st_size - ENDS))
            ends.update(file.read(ENDS))
    return Fingerprint(stat.st_size, stat.st_mtime_ns, ends.hexdigest())


def same_shard(path: Path | str, known: Fingerprint) -> bool:
    """Whether a shard is still the one that `known` was taken of: equal size, and equal time or, if touched, equal
    ends."""
    stat = Path(path).stat()
    if stat.st_size != known.size:
        return False
    return stat.st_mtime_ns == known.mtime_ns or fingerprint(path).ends_sha256 == known.ends_sha256


def grouped(tar: Tar) -> tuple[dict[str, Members], list[Skipped]]:
    """Members by key and extension as (offset, size, body); bodies are read here, while the reader passes by, of text
    only."""
    groups: dict[str, Members] = {}
    skipped: list[Skipped] = []
    run_key, run = None, {}

    def close() -> None:
        if run_key is None:
            return
        have = groups.setdefault(run_key, {})
        if have.keys() & run.keys():
            skipped.append(
                Skipped(run_key, "duplicate key", "the shard has an earlier sample of this key, which is kept")
            )
        else:
            have.update(run)

    for member in tar:
        key, ext = key_of(member.name)
        if key is None:
            continue
        if key != run_key or ext in run:
            close()
            run_key, run = key, {}
        body = tar.read(member.offset, member.size) if ext in ("txt", "json") and member.size <= MAX_TEXT else b""
        run[ext] = (member.offset, member.size, body)
    close()
    for fault in tar.faults:
        key = (key_of(fault.name)[0] or fault.name) if fault.name else ""
        detail = f"member '{fault.name}': {fault.detail}" if fault.name else fault.detail
        skipped.append(Skipped(key, fault.reason, detail))
        groups.pop(key, None)  # the sample is not whole
    return groups, skipped


def key_of(name: str) -> tuple[str | None, str]:
    """(key, lower-case extension) of a member's name; (None, "") for names that webdataset passes over."""
    if name.startswith("__") and RESERVED.match(name):
        return None, ""
    match = KEY.fullmatch(name)
    return (match[1], match[2].lower()) if match else (None, "")
