"""Rows that must not be retrieved, named by their owners: evaluation images, opted-out pictures, recalled shards.

Two sources: a list (`--exclude FILE`) of keys and sums, and the evaluation images themselves (`--exclude-images DIR`),
which leave out every row that is one of them or a near copy: equal bytes, a perceptual hash within a few bits, or an
image vector that is nearly the same. What is kept of an evaluation image is its sum, hash and vector, never pixels.
"""

import hashlib
import json
import os
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reactvl.manifest import ReactvlError, sha256_json
from reactvl.pool.tars import IMAGE_EXTENSIONS
from reactvl.progress import progress, say
from reactvl.retrieve.cache import keep, kept
from reactvl.retrieve.duplicates import BITS, close_to, similar_to

if TYPE_CHECKING:
    from reactvl.models.encoder import Encoder

COSINE = 0.95  # stricter than for near duplicates: a lost pair costs little, a leaked image spoils a benchmark
IMAGES = tuple(f".{ext}" for ext in IMAGE_EXTENSIONS)
MAX_MEMBER = 256 << 20  # bytes of one picture in a zip
BATCH = 64
WHY = ("listed", "equal bytes", "near by perceptual hash", "near by image vector")


@dataclass(frozen=True)
class Exclusion:
    """What to leave out: `shards/keys`; SHA-256 sums of images; uint64 perceptual hashes, within `bits` bits; float32
    (m, D) image vectors, within a cosine of `cosine`. `unusable`: (name, reason) of images that gave only a sum."""

    names: frozenset[str] = frozenset()
    sums: frozenset[bytes] = frozenset()
    hashes: np.ndarray | None = None
    bits: int = BITS
    vectors: np.ndarray | None = None
    cosine: float = COSINE
    unusable: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.names) + len(self.sums)

    def mask(
        self,
        shards: Sequence[str | None],
        keys: Sequence[str | None],
        sums: Sequence[bytes | None],
        hashes: np.ndarray | None = None,
        vectors: np.ndarray | None = None,
    ) -> np.ndarray:
        """bool (n,): which of these rows are left out. hashes: uint64 (n,), 0 where there is none; vectors: (n, D)
        image vectors; both may be wanting, and then tell nothing."""
        return self.why(shards, keys, sums, hashes, vectors) >= 0

    def why(self, shards, keys, sums, hashes=None, vectors=None) -> np.ndarray:
        """int8 (n,): the first reason, a place in WHY, for which a row is left out; -1 for those that are not."""
        reason = np.full(len(keys), -1, dtype=np.int8)
        if not len(self):
            return reason
        if hashes is not None and self.hashes is not None:
            reason[close_to(hashes, self.hashes, self.bits)] = 2
        if vectors is not None and self.vectors is not None:
            rest = np.flatnonzero(reason < 0)
            reason[rest[similar_to(vectors[rest], self.vectors, self.cosine)]] = 3
        for at, (shard, key, image) in enumerate(zip(shards, keys, sums, strict=True)):
            if image in self.sums:
                reason[at] = 0 if self.hashes is None else 1
            elif f"{shard}/{key}" in self.names:
                reason[at] = 0
        return reason


def read_exclusion(paths: Sequence[Path | str] | Path | str | None) -> Exclusion:
    """Read text files, which are joined: each line a SHA-256 in hex or `shard/key` (`00017.tar/000170042`); blank lines are
    passed over.

    Raises ReactvlError for a missing file and a line that is neither.
    """
    names, sums = set(), set()
    for path in files(paths):
        for place, line in lines_of(path, "the list of what to exclude"):
            pair = pair_of(line.strip(), place)
            (sums if isinstance(pair, bytes) else names).add(pair)
    return Exclusion(frozenset(names), frozenset(sums))


def files(given: Sequence[Path | str] | Path | str | None) -> list[Path]:
    """The files of an option that takes none, one or several."""
    given = [] if given is None else [given] if isinstance(given, str | Path) else given
    return [Path(path) for path in given]


def lines_of(path: Path, what: str) -> Iterator[tuple[str, str]]:
    """(place for a message, line) of every line that holds more than white space."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as fault:
        raise ReactvlError(f"{path}: {what} cannot be read ({fault})") from None
    for number, line in enumerate(text.split("\n"), 1):  # a key may hold what else ends a line
        if line.strip():
            yield f"{path}, line {number}", line


def pair_of(text: str, place: str) -> str | bytes:
    """How a list names a pair: `shard/key`, or the SHA-256 of its image in hex, which becomes bytes."""
    if len(text) == 64 and set(text.lower()) <= set("0123456789abcdef"):
        return bytes.fromhex(text)
    if "/" not in text.strip("/"):
        raise ReactvlError(f"{place}: '{text}' is neither a SHA-256 in hex nor shard/key")
    return text


@dataclass(frozen=True)
class ImageSet:
    """Images that were found but not read yet: their names, and a digest of which they are (names, sizes, times)."""

    names: list[str]
    digest: str
    read: Callable[[int], bytes]

    def __len__(self) -> int:
        return len(self.names)


def evaluation_images(source: Path | str | Sequence[Path | str]) -> ImageSet:
    """The images of folders or files, in the order of their paths: image files at any depth, and the images inside
    `.tar` shards and `.zip` archives (ELEVATER's, webdataset's). Nothing is unpacked.

    Raises ReactvlError for a path that does not exist, an archive that cannot be read, and when there is no image.
    """
    sources = [source] if isinstance(source, str | Path) else list(source)
    names, readers, seen = [], [], []
    for path in sorted({file for given in sources for file in _files(Path(given))}):
        status = path.stat()
        seen.append([str(path), status.st_size, status.st_mtime_ns])
        for name, read in _members(path):
            names.append(name)
            readers.append(read)
    if not names:
        raise ReactvlError(
            f"exclude_images: {', '.join(map(str, sources)) or 'nothing given'} holds no image; "
            f"give a folder of {' '.join(IMAGES)} files, .tar shards or .zip archives"
        )
    return ImageSet(names, sha256_json([seen, len(names)]), lambda at: readers[at]())


def images_exclusion(
    images: ImageSet,
    encoder: "Encoder | None" = None,
    *,
    bits: int = BITS,
    cosine: float = COSINE,
    cache: Path | None = None,
) -> Exclusion:
    """What leaves these images and their near copies out.

    encoder: of the model that made the embeddings; without one there are no vectors, and only bytes and hashes are
    compared. cache: a file (npz) where the sums, hashes and vectors are kept, so that a later run does not encode
    again; it is read only if it is of these images and this model. Images that cannot be decoded count by
    their bytes alone and are listed. Raises ReactvlError for an image that cannot be read any more.
    """
    made_of = sha256_json([images.digest, encoder.model.id.sha256 if encoder else None])
    known = None if cache is None else kept(cache, made_of)
    if known is None:
        known = _hashed(images, encoder)
        if cache is not None:
            keep(cache, made_of, **known)
    unusable = tuple(map(tuple, json.loads(str(known["unusable"]))))
    if unusable:
        say(f"  {len(unusable):,} evaluation images cannot be decoded and are left out by their bytes alone")
    return Exclusion(
        sums=frozenset(bytes(row) for row in known["sums"]),
        hashes=known["hashes"],
        bits=bits,
        vectors=known["vectors"] if encoder else None,
        cosine=cosine,
        unusable=unusable,
    )


def _hashed(images: ImageSet, encoder: "Encoder | None") -> dict[str, np.ndarray]:
    """sums uint8 (n, 32), hashes uint64 (m,) and vectors float32 (m, D) of the m images that could be decoded."""
    sums, hashes, vectors, unusable = [], [], [], []
    batch: list[np.ndarray] = []

    def encode() -> None:
        import torch

        if batch:
            vectors.append(encoder.images(torch.from_numpy(np.stack(batch))))
            batch.clear()

    with progress("reading evaluation images", len(images), "images") as bar:
        for name, (digest, picture, fault) in zip(images.names, _decoded(images, encoder), strict=True):
            sums.append(np.frombuffer(digest, np.uint8))
            if fault:
                unusable.append([name, fault])
            else:
                hashes.append(picture.phash)
                if encoder:
                    batch.append(picture.pixels)  # (3, size, size)
            if len(batch) == BATCH:
                encode()
            bar.advance()
    encode()
    return {
        "sums": np.stack(sums),
        "hashes": np.array(hashes, dtype=np.uint64),
        "vectors": np.concatenate(vectors) if vectors else np.zeros((0, 0), np.float32),
        "unusable": np.array(json.dumps(unusable)),
    }


def _decoded(images: ImageSet, encoder: "Encoder | None") -> Iterator[tuple[bytes, Any, str]]:
    """(SHA-256, picture or None, reason or "") of every image in order, decoded by threads a little ahead."""
    from reactvl.pool.images import BadImage, picture

    options: dict[str, Any] = {"size": 32}
    if encoder:
        model = encoder.model
        options = {
            "size": model.image_size,
            "resize_mode": model.resize_mode,
            "interpolation": model.interpolation,
            "fill": model.config["preprocess_cfg"].get("fill_color", 0),
        }

    def work(at: int) -> tuple[bytes, Any, str]:
        data = images.read(at)
        try:
            return hashlib.sha256(data).digest(), picture(data, **options), ""
        except BadImage as fault:
            return hashlib.sha256(data).digest(), None, str(fault)

    workers = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        waiting: deque = deque()
        for at in range(len(images)):
            waiting.append(pool.submit(work, at))
            if len(waiting) > BATCH + workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _files(path: Path) -> Iterator[Path]:
    """The files of a path that may hold images; hidden ones are passed over, links to folders not followed."""
    if path.is_file():
        yield path
        return
    if not path.is_dir():
        raise ReactvlError(f"exclude_images: {path} does not exist")
    for root, folders, files in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith((*IMAGES, ".tar", ".zip")) and not name.startswith("."):
                yield Path(root, name)


def _members(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """(name, how to read it) of every image in a file."""
    if path.suffix.lower() == ".tar":
        from reactvl.pool.reader import read_image
        from reactvl.pool.tars import scan

        for sample in scan(path):
            place = (path, sample.offset, sample.size)
            yield f"{path}/{sample.key}.{sample.ext}", lambda place=place: read_image(*place)
    elif path.suffix.lower() == ".zip":
        yield from _zipped(path)
    else:
        yield str(path), lambda: _whole(path)


def _whole(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise ReactvlError(f"{path}: cannot be read ({fault.strerror})") from None


def _zipped(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [entry for entry in archive.infolist() if entry.filename.lower().endswith(IMAGES)]
    except (OSError, zipfile.BadZipFile) as fault:
        raise ReactvlError(f"{path}: is no zip archive that can be read ({fault})") from None

    def read(entry: zipfile.ZipInfo) -> bytes:
        try:
            with zipfile.ZipFile(path) as archive, archive.open(entry) as member:
                return member.read(MAX_MEMBER)
        except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, zlib.error) as fault:
            raise ReactvlError(f"{path}: member '{entry.filename}' cannot be read ({fault})") from None

    for entry in members:
        yield f"{path}@{entry.filename}", lambda entry=entry: read(entry)
