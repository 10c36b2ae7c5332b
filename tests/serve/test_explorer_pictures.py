"""Small pictures are made of whatever lies in a pool, within bounds of pixels and memory."""

import io
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from reactvl.pool.images import BadImage
from reactvl.serve.pictures import Remembered, pixels_of, small


def file_of(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def noise(mode: str) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (60, 90, 4), dtype=np.uint8)
    return Image.fromarray(values, "RGBA").convert(mode)


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header says this size, with next to no data."""
    pieces = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(100))))
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in pieces
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    ("mode", "form"),
    [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("1", "PNG"), ("I;16", "PNG"),
     ("RGBA", "WEBP"), ("P", "GIF"), ("RGB", "BMP"), ("CMYK", "TIFF"), ("F", "TIFF")],
)  # fmt: skip
def test_any_kind_of_picture_becomes_a_small_one(mode, form):
    image = noise("L" if mode == "I;16" else mode)
    data = file_of(image.convert("I;16") if mode == "I;16" else image, form)
    shown = Image.open(io.BytesIO(small(data, 30)))
    assert shown.format == "WEBP" and shown.size == (30, 20)


def test_transparency_is_shown_on_white():
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    assert np.asarray(Image.open(io.BytesIO(small(file_of(clear, "PNG"), 16)))).min() > 250


def test_only_the_first_of_many_frames_is_decoded():
    frames = [Image.new("L", (50, 50), value) for value in range(0, 250, 10)]
    data = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(Image.open(io.BytesIO(small(data, 16)))).max() < 5


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xd8\xff", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg/>", png_of(70_000, 70_000), png_of(400, 400)[:60],
     file_of(noise("RGB"), "JPEG")[:300], b"\x89PNG\r\n\x1a\n" + bytes(200)],
)  # fmt: skip
def test_what_cannot_be_shown_is_a_bad_image_and_nothing_else(data):
    with pytest.raises(BadImage):
        small(data, 64)


def test_a_picture_as_thin_as_a_line_is_refused_or_shown_but_never_fails():
    assert Image.open(io.BytesIO(small(file_of(Image.new("RGB", (5000, 1)), "PNG"), 64))).size == (64, 1)
    options = {"size": 32, "resize_mode": "shortest", "interpolation": "bicubic", "fill": 0}
    assert tuple(pixels_of(file_of(Image.new("RGB", (500, 1)), "PNG"), options, 10**6).shape) == (3, 32, 32)


def test_what_is_remembered_is_bounded_and_the_last_used_stays():
    made = []
    kept = Remembered(100)

    def make(name: str) -> bytes:
        made.append(name)
        return name.encode() * 40

    for name in "abaca":  # b is the one that goes
        assert kept.get(name, lambda name=name: make(name)) == name.encode() * 40
    assert made == ["a", "b", "c"] and kept.held == 80
    kept.get("b", lambda: make("b"))
    assert made[-1] == "b" and kept.held == 80
    kept.get("large", lambda: bytes(1000))
    assert kept.held == 0


def test_the_bound_holds_whatever_threads_do():
    kept = Remembered(1000)

    def look(seed: int) -> None:
        for key in np.random.default_rng(seed).integers(0, 60, 2000).tolist():
            assert kept.get(key, lambda key=key: bytes([key]) * (key + 1)) == bytes([key]) * (key + 1)

    threads = [threading.Thread(target=look, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kept.held == sum(map(len, kept._values.values())) <= 1000
