"""Tasks in the format of MNIST and its kin: a file of all images and one of all labels a split, gzipped or not.

    fashion-mnist/train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz        the split `train`
    fashion-mnist/t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz          the split `test`

As Debian's dataset-fashion-mnist installs them under /usr/share/datasets, and torchvision in `FashionMNIST/raw`. An image
is bytes in rows, uint8 (height, width); it is given as the bytes of a PNG that is made when it is read.
"""

import functools
import gzip
import hashlib
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from reactvl.manifest import ReactvlError
from reactvl.pool.tars import fingerprint
from reactvl.tasks.classes import ClassEntry
from reactvl.tasks.naming import classes_in, task_of
from reactvl.tasks.task import Samples, Task

SPLITS = {"test": "t10k", "train": "train"}
LARGEST = 1 << 31  # bytes of a file once unpacked


def read_task(folder: Path, given: list[ClassEntry] | None = None) -> Task | None:
    """The task of a folder, None when it is of another kind; ReactvlError when nothing names its classes, `given` neither."""
    splits = {}
    for split, prefix in SPLITS.items():
        images, labels = file_of(folder, prefix, "images", 3), file_of(folder, prefix, "labels", 1)
        if images and labels:
            splits[split] = (images, labels)
    if not splits:
        return None
    entries = classes_in(folder) or given
    if entries is None:
        raise ReactvlError(
            f"{folder}: holds images in MNIST's format, and nothing names their classes; put classnames.txt into it, one name a "
            "line, or give --classes"
        )
    return task_of(
        folder,
        entries,
        {split: functools.partial(read_split, split, *files, len(entries)) for split, files in splits.items()},
    )


def file_of(folder: Path, prefix: str, what: str, dimensions: int) -> Path | None:
    """`train-images-idx3-ubyte` or `train-images.idx3-ubyte`, with or without `.gz`, in the folder or in its `raw`."""
    for home in (folder, folder / "raw"):
        for joint in "-.":
            for end in (".gz", ""):
                path = home / f"{prefix}-{what}{joint}idx{dimensions}-ubyte{end}"
                if path.is_file():
                    return path
    return None


def read_split(split: str, images: Path, labels: Path, classes: int) -> Samples:
    """The labelled images of a split, called `test/0`, `test/1`, ...; all its pixels are in memory from the first read on."""
    said = read_array(labels, 1)
    count = shape_of(images, 3)[0]
    if len(said) != count:
        raise ReactvlError(f"{labels}: has {len(said):,} labels, {images.name} has {count:,} images")
    rows = np.flatnonzero(said < classes)
    unusable = [
        (f"{split}/{row}", f"its label {said[row]} is beyond the {classes} classes")
        for row in np.flatnonzero(said >= classes)
    ]
    seen = hashlib.sha256(said.tobytes())
    about = fingerprint(images)
    seen.update(f"{split} {about.size} {about.ends_sha256}".encode())

    @functools.cache
    def pixels() -> np.ndarray:
        return read_array(images, 3)

    return Samples(
        names=[f"{split}/{row}" for row in rows],
        labels=said[rows].astype(np.int64),
        unusable=unusable,
        fingerprint=seen.hexdigest(),
        reader=lambda index: png(pixels()[rows[index]]),
    )


def png(pixels: np.ndarray) -> bytes:
    """The bytes of a PNG of a grey picture uint8 (height, width)."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def shape_of(path: Path, dimensions: int) -> tuple[int, ...]:
    """The shape that a file's header gives."""
    with opened(path) as file:
        return header(path, file, dimensions)


def read_array(path: Path, dimensions: int) -> np.ndarray:
    """The bytes of a file, uint8 of the shape in its header; ReactvlError for a file of another kind or a damaged one."""
    with opened(path) as file:
        shape = header(path, file, dimensions)
        size = math.prod(shape)
        try:
            data = file.read(size + 1)
        except (OSError, EOFError, zlib.error) as fault:
            raise ReactvlError(f"{path}: is damaged ({fault}); fetch it again") from None
    if len(data) != size:
        more = "more" if len(data) > size else f"{len(data):,}"
        raise ReactvlError(f"{path}: has {more} bytes where its header says {size:,}; fetch it again")
    return np.frombuffer(data, np.uint8).reshape(shape)


def opened(path: Path):
    try:
        return gzip.open(path) if path.suffix == ".gz" else open(path, "rb")
    except OSError as fault:
        raise ReactvlError(f"{path}: cannot be read ({fault.strerror})") from None


def header(path: Path, file, dimensions: int) -> tuple[int, ...]:
    """Two zero bytes, 8 for unsigned bytes, the number of dimensions, and each as a big-endian uint32."""
    try:
        head = file.read(4 + 4 * dimensions)
    except (OSError, EOFError, zlib.error) as fault:
        raise ReactvlError(f"{path}: is damaged ({fault}); fetch it again") from None
    if len(head) != 4 + 4 * dimensions or head[:4] != bytes((0, 0, 8, dimensions)):
        raise ReactvlError(f"{path}: is no IDX file of bytes in {dimensions} dimensions; it begins with {head[:4]!r}")
    shape = struct.unpack(f">{dimensions}I", head[4:])
    if not 0 < math.prod(shape) <= LARGEST:
        raise ReactvlError(f"{path}: its header says {' x '.join(map(str, shape))} bytes; at most {LARGEST:,} are read")
    return shape
