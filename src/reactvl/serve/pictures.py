"""Pictures of a pool for people: the file as it lies in its shard, small ones for a page; and pictures that people bring."""

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from reactvl.manifest import ReactvlError
from reactvl.pool.images import FORMATS, MAX_IMAGE_PIXELS, BadImage, check_pixels, to_pixels

if TYPE_CHECKING:
    from torch import Tensor

    from reactvl.handles.embeddings import Embeddings
    from reactvl.serve.metadata import Metadata

THUMBNAILS = 96 << 20  # bytes of thumbnails that are kept
SIDES = (16, 1024)  # of a thumbnail, in pixels
LARGEST = 256 << 20  # bytes of one picture's file


class Pictures:
    """The pictures of a pool by row over all parts; safe in threads."""

    def __init__(self, embeddings: "Embeddings", metadata: "Metadata"):
        self.embeddings, self.metadata = embeddings, metadata
        self._small = Remembered(THUMBNAILS)
        self._checking = threading.Lock()

    def read(self, row: int) -> bytes:
        """The picture's file. Raises ReactvlError, naming shard and key, when there is none or it cannot be read."""
        shard, key, offset, size = self.metadata.place_of(row)
        if shard is None or offset is None or size is None:
            self.embeddings.require_pictures()
            raise ReactvlError(f"{key or 'this pair'}: has no picture in a shard")
        try:
            if not 0 < size <= LARGEST or offset < 0:
                raise ReactvlError(f"{size:,} bytes at {offset:,} are no picture's")
            with self._checking:  # a shard that is looked at for the first time is closed and opened again
                self.embeddings.shard_path(shard)
            return self.embeddings.read_bytes(shard, offset, size)
        except ReactvlError as fault:
            raise ReactvlError(f"{shard}, {key}: its picture cannot be read ({fault})") from None

    def thumbnail(self, row: int, side: int) -> tuple[bytes, str]:
        """(bytes, MIME type): the picture with its longer side at most `side` pixels, as webp; transparency on white."""
        if not SIDES[0] <= side <= SIDES[1]:
            raise ReactvlError(f"a thumbnail of {side} pixels; {SIDES[0]} to {SIDES[1]} can be had")
        return self._small.get((row, side), lambda: self._made(row, side)), "image/webp"

    def _made(self, row: int, side: int) -> bytes:
        data = self.read(row)
        try:
            return small(data, side)
        except BadImage as fault:
            shard, key, *_ = self.metadata.place_of(row)
            raise ReactvlError(f"{shard}, {key}: its picture cannot be shown ({fault})") from None


class Remembered:
    """Values of bytes that were made last, at most `limit` bytes of them; safe in threads."""

    def __init__(self, limit: int):
        self.limit, self.held = limit, 0
        self._values: OrderedDict[Hashable, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], bytes]) -> bytes:
        """The value of a key, made where it is not known; threads may make one at the same time."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        with self._lock:
            if key not in self._values:
                self._values[key] = value
                self.held += len(value)
                while self.held > self.limit:
                    _, dropped = self._values.popitem(last=False)
                    self.held -= len(dropped)
        return value


def small(data: bytes, side: int) -> bytes:
    """A picture as webp with its longer side at most `side` pixels; raises BadImage. As a model sees it: EXIF's turns are
    not made."""
    from PIL import Image, UnidentifiedImageError

    from reactvl.report.thumbnails import on_white

    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        check_pixels(image.height, image.width)
        image.draft("RGB", (side * 2, side * 2))
        image = on_white(image)
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=80, method=2)
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage("not an image", f"no {', '.join(FORMATS)} file; it begins with {data[:8]!r}") from None
    except Exception as fault:  # Pillow's plugins raise a dozen kinds of error on damaged bytes
        raise BadImage("damaged image", f"{type(fault).__name__}: {fault}") from None
    return buffer.getvalue()


def pixels_of(data: bytes, options: dict[str, Any], max_pixels: int) -> "Tensor":
    """uint8 (3, size, size) of a picture that someone sent, `options` those of the model. Its header is read first: one of
    more than `max_pixels` pixels is not decoded. Raises ReactvlError for what is no picture, damaged or too large."""
    import torch
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
        most = min(max_pixels, MAX_IMAGE_PIXELS)
        if width * height > most:
            raise ReactvlError(f"the image is {width:,} x {height:,} pixels; at most {most:,} are taken")
        return torch.from_numpy(to_pixels(data, **options))
    except ReactvlError:
        raise
    except UnidentifiedImageError:
        raise ReactvlError(f"this is no image: {', '.join(FORMATS)} are read") from None
    except BadImage as fault:
        raise ReactvlError(f"the image cannot be read ({fault})") from None
    except Exception as fault:  # as in `small`
        raise ReactvlError(f"the image cannot be read ({type(fault).__name__}: {fault})") from None
