"""Images as a CLIP model wants them: decoded, resized, cropped, uint8.

The reference is open_clip's evaluation transform on Pillow: resize (bicubic, antialiased) in the file's own mode,
crop, convert to RGB; EXIF orientation is not applied. The fast path serves grey and YCbCr JPEGs: simplejpeg decodes
to the same bytes as Pillow, and torch's antialiased uint8 resize agrees with Pillow's within 2 of 255. Everything
else takes the reference path.
"""

import io
from typing import Literal, NamedTuple

import numpy as np

MAX_IMAGE_PIXELS = 89_478_485  # Pillow's own bound for an image of three bytes a pixel in 256 MiB
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # Pillow knows others that start programs or follow paths
NAMES = {  # the extensions of each; the first is the one given to a file that has none of them
    "JPEG": ("jpg", "jpeg", "jpe", "jfif"),
    "PNG": ("png", "apng"),
    "WEBP": ("webp",),
    "GIF": ("gif",),
    "BMP": ("bmp",),
    "TIFF": ("tif", "tiff"),
}

ResizeMode = Literal["shortest", "longest", "squash"]


class BadImage(Exception):
    """Bytes that are no usable image. `reason` is one of a few fixed words, for counting; `detail` says more."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class Picture(NamedTuple):
    """What one decoding yields: `pixels` uint8 (3, size, size), the perceptual hash, and which path made them."""

    pixels: np.ndarray
    phash: np.uint64
    path: str  # "fast" or "pillow"
    width: int  # of the picture as decoded
    height: int


def extension_of(data: bytes, given: str = "") -> str | None:
    """The extension that an image's first bytes call for: `given` (lower case, without the dot) where it is one of its
    format's, else the format's first; None for what is no image of FORMATS."""
    head = data[:12]
    form = next((form for form, marks in MARKS.items() if head.startswith(marks)), None)
    if form == "WEBP" and head[8:12] != b"WEBP":
        return None
    return None if form is None else given if given in NAMES[form] else NAMES[form][0]


MARKS = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "WEBP": (b"RIFF",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "BMP": (b"BM",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}


def decode(data: bytes) -> np.ndarray:
    """Decode to uint8 (H, W, 3) RGB; raises BadImage."""
    array = decode_jpeg(data)
    if array is None:
        image = open_image(data)
        array = rgb(image)
    return array


def to_pixels(
    data: bytes,
    size: int,
    *,
    resize_mode: ResizeMode = "shortest",
    interpolation: str = "bicubic",
    fill: int = 0,
    fast: bool = True,
) -> np.ndarray:
    """Decode, resize and crop as open_clip's evaluation transform does: uint8 (3, size, size); raises BadImage.

    `fast=False` is bit for bit open_clip's result; otherwise JPEGs differ from it by at most 2 of 255.
    """
    array = decode_jpeg(data) if fast else None
    if array is not None:
        return shrink(array, size, resize_mode, interpolation, fill)
    return shrink_pillow(open_image(data), size, resize_mode, interpolation, fill)


def picture(
    data: bytes,
    size: int,
    *,
    resize_mode: ResizeMode = "shortest",
    interpolation: str = "bicubic",
    fill: int = 0,
    fast: bool = True,
) -> Picture:
    """`to_pixels` and `perceptual_hash` from one decoding."""
    array = decode_jpeg(data) if fast else None
    if array is not None:
        pixels = shrink(array, size, resize_mode, interpolation, fill)
        return Picture(pixels, perceptual_hash(array), "fast", array.shape[1], array.shape[0])
    image = open_image(data)
    pixels = shrink_pillow(image, size, resize_mode, interpolation, fill)
    return Picture(pixels, perceptual_hash(rgb(image)), "pillow", image.width, image.height)


def perceptual_hash(array: np.ndarray) -> np.uint64:
    """64-bit DCT hash of an RGB image (H, W, 3): the signs of the 8 x 8 lowest frequencies of its 32 x 32 grey
    version against their median (pHash, Zauner 2010). Near copies differ in few bits; a flat image hashes like any
    other flat one."""
    from PIL import Image

    grey = Image.fromarray(array).convert("L").resize((32, 32), Image.Resampling.BOX)
    low = COSINES @ np.asarray(grey, dtype=np.float64) @ COSINES.T  # (8, 8)
    bits = np.round(low, 6) > np.median(np.round(low, 6))
    return np.packbits(bits.reshape(64)).view(">u8")[0].astype(np.uint64)


# (8, 32): the eight lowest rows of the DCT-II of length 32
COSINES = np.cos(np.pi / 32 * np.outer(np.arange(8), np.arange(32) + 0.5))


def decode_jpeg(data: bytes) -> np.ndarray | None:
    """uint8 (H, W, 3) of a grey or YCbCr JPEG, the same bytes as Pillow's; None where Pillow has to decide."""
    if data[:3] != b"\xff\xd8\xff":
        return None
    import simplejpeg

    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        if colorspace not in ("YCbCr", "Gray"):
            return None
        check_pixels(height, width)
        return simplejpeg.decode_jpeg(data, "RGB")  # strict: a truncated file raises
    except ValueError:
        return None


def open_image(data: bytes):
    """A loaded PIL image in the file's own mode; raises BadImage."""
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise BadImage("empty image", "the file has no bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        check_pixels(image.height, image.width)
        image.load()
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage("not an image", f"no {', '.join(FORMATS)} file; it begins with {data[:8]!r}") from None
    except Image.DecompressionBombError as fault:
        raise BadImage("too many pixels", str(fault)) from None
    except Exception as fault:  # Pillow's plugins raise a dozen kinds of error on damaged bytes
        raise BadImage("damaged image", f"{type(fault).__name__}: {fault}") from None
    return image


def check_pixels(height: int, width: int) -> None:
    if height * width > MAX_IMAGE_PIXELS:
        raise BadImage("too many pixels", f"{width:,} x {height:,}; at most {MAX_IMAGE_PIXELS:,} are decoded")


def rgb(image) -> np.ndarray:
    """uint8 (H, W, 3) of a PIL image by `convert("RGB")`, as open_clip converts: alpha is dropped, not composited."""
    try:
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except Exception as fault:  # a damaged palette or profile shows only here
        raise BadImage("damaged image", f"{type(fault).__name__}: {fault}") from None


def shrink(array: np.ndarray, size: int, resize_mode: str, interpolation: str, fill: int) -> np.ndarray:
    """Resize and crop uint8 (H, W, 3) to (3, size, size) with torch's antialiased uint8 kernel."""
    import torch

    target = resized(array.shape[0], array.shape[1], size, resize_mode)
    # (1, 3, H, W); the batch's axis comes first, else torch does not see channels last and takes a third longer
    image = torch.from_numpy(array).unsqueeze(0).permute(0, 3, 1, 2)
    steps = (
        [(target[0], array.shape[1]), target] if vertical_first(array.shape[0], array.shape[1], *target) else [target]
    )
    for step in steps:
        if image.shape[2:] != step:
            image = torch.nn.functional.interpolate(image, step, mode=interpolation, antialias=True)
    return crop(image[0].permute(1, 2, 0).numpy(), size, fill)


def vertical_first(height: int, width: int, new_height: int, new_width: int) -> bool:
    """Whether Pillow would resize the columns before the rows, each rounded to uint8; torch resizes the rows first.

    Pillow does so since version 13 (its pull request 9549) where the height shrinks by more than twice as many pixels
    as the width; older versions never do.
    """
    from PIL import Image

    if int(Image.__version__.split(".")[0]) < 13:
        return False
    return height > new_height and height - new_height > 2 * (width - new_width)


def shrink_pillow(image, size: int, resize_mode: str, interpolation: str, fill: int) -> np.ndarray:
    """Resize in the image's own mode, convert and crop, to uint8 (3, size, size): open_clip's order of steps."""
    from PIL import Image

    height, width = resized(image.height, image.width, size, resize_mode)
    method = Image.Resampling.BILINEAR if interpolation == "bilinear" else Image.Resampling.BICUBIC
    try:
        small = image.resize((width, height), method)
    except Exception as fault:  # a mode that Pillow cannot resample
        raise BadImage("damaged image", f"{type(fault).__name__}: {fault}") from None
    return crop(rgb(small), size, fill)


def resized(height: int, width: int, size: int, resize_mode: str) -> tuple[int, int]:
    """(height, width) after the resize and before the crop, by torchvision's and open_clip's rounding.

    BadImage for a shape so thin that the resized image would be out of bounds.
    """
    if resize_mode == "squash":
        return size, size
    if resize_mode == "longest":
        ratio = max(height, width) / size
        target = round(height / ratio), round(width / ratio)
    else:
        short, long = min(height, width), max(height, width)
        long = int(size * long / short)
        target = (size, long) if height <= width else (long, size)
    if min(target) < 1 or target[0] * target[1] > MAX_IMAGE_PIXELS:
        raise BadImage("extreme shape", f"{width:,} x {height:,} pixels cannot be resized to {size}")
    return target


def crop(array: np.ndarray, size: int, fill: int) -> np.ndarray:
    """Centre crop, or pad with `fill`, uint8 (H, W, 3) to a contiguous (3, size, size)."""
    height, width, _ = array.shape
    if height < size or width < size:
        down, right = max(size - height, 0), max(size - width, 0)
        array = np.pad(
            array, ((down // 2, (down + 1) // 2), (right // 2, (right + 1) // 2), (0, 0)), constant_values=fill
        )
        height, width, _ = array.shape
    top, left = round((height - size) / 2), round((width - size) / 2)
    return np.ascontiguousarray(array[top : top + size, left : left + size].transpose(2, 0, 1))
