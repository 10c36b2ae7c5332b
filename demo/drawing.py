"""Draws the demo's pictures: vector art and bitmaps in, small encoded pictures out, as the web stores them.

A pool picture varies as pictures on the web do (size, margin, plain background, file type, quality), by a random
generator seeded with its source and slug; a task's picture is drawn one way: 112 px on white, webp. Vector art is
drawn three times as large and brought down with Lanczos, so that thin lines stay.

    .venv/bin/python demo/build.py --out demo        # the only caller
"""

import io
import random
from dataclasses import dataclass

import numpy as np
import resvg_py
from PIL import Image
from sources import Picture

MASTER = 336  # longest side of the master drawing
MAX_ASPECT = 2.2  # a centre crop of a longer picture shows little of it
MAX_PIXELS = 40_000_000  # a few openclipart files are posters of hundreds of megapixels, all the same sign
MIN_CONTRAST = 7.0  # levels of 255 (standard deviation); below it nothing is to be seen
WHITE, SLATE = (255, 255, 255), (112, 128, 144)

Image.MAX_IMAGE_PIXELS = None  # the packages are pinned by hash; size is judged below, before decoding


@dataclass(frozen=True)
class Encoded:
    """An encoded picture and the sizes that img2dataset would note."""

    data: bytes
    ext: str
    width: int
    height: int
    original_width: int
    original_height: int


def draw_for_pool(picture: Picture, seed: int) -> tuple[Encoded, np.ndarray] | None:
    """The pool's picture and its (32, 32, 3) signature; None where nothing can be drawn or the shape is extreme."""
    master, original = render(picture)
    if master is None:
        return None
    square = max(original) <= 1.1 * min(original)
    rng = random.Random(f"{seed}/{picture.source}/{picture.slug}/draw")
    side = rng.randint(96, 112)
    margin = rng.choice((0.0, 0.0, 0.04, 0.08, 0.12))
    drawn = next(
        (
            d
            for b in (background(rng), WHITE, SLATE)
            if contrast(d := compose(master, side, margin, b, square)) >= MIN_CONTRAST
        ),
        None,
    )
    if drawn is None:
        return None
    return encode(drawn, rng, original), signature(master)


def draw_for_task(picture: Picture) -> tuple[bytes, np.ndarray] | None:
    """A task's picture, 112 x 112 webp on white, and its (32, 32, 3) signature; None where nothing is to be seen."""
    master, _ = render(picture)
    if master is None:
        return None
    drawn = compose(master, 112, 0.04, WHITE, square=True)
    if contrast(drawn) < MIN_CONTRAST:
        return None
    out = io.BytesIO()
    drawn.save(out, "WEBP", quality=90, method=6)
    return out.getvalue(), signature(master)


def render(picture: Picture) -> tuple[Image.Image | None, tuple[int, int]]:
    """The master drawing (RGBA, cut to its content, longest side <= MASTER; None where unfit), the original's size."""
    if picture.vector:
        png = resvg_py.svg_to_bytes(svg_string=picture.data.decode(), width=MASTER, skip_system_fonts=True)
        image = Image.open(io.BytesIO(bytes(png)))
    else:
        image = Image.open(io.BytesIO(picture.data))
    original = image.size
    if original[0] * original[1] > MAX_PIXELS or max(original) / min(original) > MAX_ASPECT:
        return None, original
    image = image.convert("RGBA")
    box = image.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox()
    if box is None:
        return None, original
    image = image.crop(box)
    image.thumbnail((MASTER, MASTER), Image.Resampling.LANCZOS, reducing_gap=3.0)
    # an emoji's canvas is square however thin the drawing, and stays so
    square = max(original) <= 1.1 * min(original)
    if min(image.size) < 8 or (not square and max(image.size) / min(image.size) > MAX_ASPECT):
        return None, original
    return image, original


def compose(master: Image.Image, side: int, margin: float, colour: tuple[int, int, int], square: bool) -> Image.Image:
    """`master` on a plain RGB canvas, square or of its own shape, longest side `side`, a share `margin` free around."""
    inner = side * (1 - 2 * margin)
    scale = inner / max(master.size)
    # Lanczos on premultiplied pixels: colours hidden under transparency must not bleed into the edges
    size = tuple(max(1, round(s * scale)) for s in master.size)
    small = master.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    free = round(2 * margin * side)
    canvas = Image.new("RGB", (side, side) if square else tuple(min(side, s + free) for s in size), colour)
    at = tuple((c - s) // 2 for c, s in zip(canvas.size, size, strict=True))
    canvas.paste(small, at, small)
    return canvas


def background(rng: random.Random) -> tuple[int, int, int]:
    """White mostly, else a pale or a mid plain colour."""
    kind = rng.random()
    if kind < 0.62:
        return WHITE
    low, high = (205, 250) if kind < 0.86 else (120, 215)
    return rng.randint(low, high), rng.randint(low, high), rng.randint(low, high)


def encode(drawn: Image.Image, rng: random.Random, original: tuple[int, int]) -> Encoded:
    """As the web has it: 55% jpg, 40% webp, 5% png (half of those with a palette)."""
    kind, out = rng.random(), io.BytesIO()
    if kind < 0.55:
        ext = "jpg"
        drawn.save(out, "JPEG", quality=rng.randint(82, 88), optimize=True)
    elif kind < 0.95:
        ext = "webp"
        drawn.save(out, "WEBP", quality=rng.randint(77, 84), method=6)
    else:
        ext = "png"
        (drawn.quantize(128) if kind < 0.975 else drawn).save(out, "PNG", optimize=True)
    return Encoded(out.getvalue(), ext, *drawn.size, *original)


def contrast(image: Image.Image) -> float:
    """The largest standard deviation of the three colour channels."""
    return float(np.asarray(image, dtype=np.float32).std(axis=(0, 1)).max())


def signature(master: Image.Image) -> np.ndarray:
    """(32, 32, 3) uint8: the drawing on white, cut to its content, centred in a square: margins do not count."""
    return np.asarray(compose(master, 32, 0.0, WHITE, square=True), dtype=np.uint8)
