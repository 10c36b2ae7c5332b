"""Pixels are open_clip's: bit for bit on the reference path, within 2 of 255 on the fast one."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from reactvl.clip_imports import open_clip
from reactvl.pool import images
from reactvl.pool.images import BadImage, decode, perceptual_hash, picture, to_pixels


def reference(data, size, mode="shortest", interpolation="bicubic"):
    """open_clip's own transform without the normalisation, as uint8 (3, size, size)."""
    transform = open_clip.transform.image_transform(
        size, is_train=False, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), resize_mode=mode, interpolation=interpolation
    )
    return np.rint(transform(Image.open(io.BytesIO(data))).numpy() * 255).astype(np.uint8)


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def scene(height, width, seed=0):
    """Smooth colours, hard edges and noise in one picture."""
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    array = np.array(smooth)
    array[height // 4 : height // 2, width // 3 :: 3] = 255
    array[height // 2 :, : width // 4] = rng.integers(0, 256, (height - height // 2, width // 4, 3))
    return Image.fromarray(array)


SIZES = [(224, 224), (225, 223), (31, 47), (500, 333), (1, 1), (3, 90), (640, 97), (96, 96), (1021, 769)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(
    "options", [{"quality": 90}, {"quality": 60, "progressive": True}, {"quality": 95, "subsampling": 0}]
)
def test_the_fast_path_is_within_2_of_255_of_open_clips(height, width, options):
    for image in (scene(height, width), scene(height, width, 1).convert("L")):
        data = encoded(image, "JPEG", **options)
        wanted = reference(data, 112)
        made = picture(data, 112)
        assert made.path == "fast"
        assert np.abs(made.pixels.astype(int) - wanted).max() <= 2
        assert np.array_equal(to_pixels(data, 112, fast=False), wanted)
        assert np.array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("mode", ["longest", "squash", "shortest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_other_resize_modes_are_open_clips_too(mode, interpolation):
    for height, width in [(100, 60), (61, 143), (30, 17), (64, 64)]:
        data = encoded(scene(height, width), "JPEG")
        wanted = reference(data, 64, mode, interpolation)
        how = {"resize_mode": mode, "interpolation": interpolation}
        assert np.array_equal(to_pixels(data, 64, fast=False, **how), wanted)
        assert np.abs(to_pixels(data, 64, **how).astype(int) - wanted).max() <= 2


@settings(deadline=None, max_examples=150)
@given(
    height=st.integers(1, 420),
    width=st.integers(1, 420),
    size=st.integers(8, 256),
    mode=st.sampled_from(["shortest", "squash"]),
    seed=st.integers(0, 9),
)
def test_the_fast_path_stays_within_2_of_255_on_noise_of_any_shape(height, width, size, mode, seed):
    array = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assume(images.resized(height, width, size, mode)[0] * images.resized(height, width, size, mode)[1] < 10**6)
    wanted = images.shrink_pillow(Image.fromarray(array), size, mode, "bicubic", 0)
    made = images.shrink(array, size, mode, "bicubic", 0)
    assert np.abs(made.astype(int) - wanted).max() <= 2


def odd_files():
    image = scene(70, 90)
    alpha = image.copy()
    alpha.putalpha(Image.fromarray(np.tile(np.arange(90, dtype=np.uint8) * 2, (70, 1))))
    sixteen = Image.fromarray((np.arange(70 * 90).reshape(70, 90) * 10).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    return {
        "cmyk": encoded(image.convert("CMYK"), "JPEG"),
        "turned": encoded(image, "JPEG", exif=exif),
        "rgba png": encoded(alpha, "PNG"),
        "rgba webp": encoded(alpha, "WEBP"),
        "palette png": encoded(image.quantize(16), "PNG"),
        "palette with a transparent colour": encoded(image.quantize(16), "PNG", transparency=3),
        "grey and alpha": encoded(alpha.convert("LA"), "PNG"),
        "1 bit": encoded(image.convert("1"), "PNG"),
        "16 bit": encoded(sixteen, "PNG"),
        "webp": encoded(image, "WEBP"),
        "gif": encoded(image, "GIF"),
        "tiff": encoded(image, "TIFF"),
    }


@pytest.mark.parametrize("name", odd_files())
def test_unusual_files_are_open_clips_bit_for_bit(name):
    data = odd_files()[name]
    wanted, made = reference(data, 48), picture(data, 48)
    assert made.pixels.dtype == np.uint8 and made.pixels.flags.c_contiguous
    if made.path == "fast":
        assert name == "turned" and np.abs(made.pixels.astype(int) - wanted).max() <= 2
    else:
        assert np.array_equal(made.pixels, wanted)
    assert np.array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_truncated_files_are_bad(form, share):
    data = encoded(scene(200, 300), form)
    with pytest.raises(BadImage) as fault:
        to_pixels(data[: int(len(data) * share)], 64)
    assert fault.value.reason in ("empty image", "not an image", "damaged image")


def test_a_jpeg_without_its_last_bytes_is_judged_as_pillow_judges_it():
    data = encoded(scene(200, 300), "JPEG")
    for cut in range(1, 30, 4):
        try:
            Image.open(io.BytesIO(data[:-cut])).load()
        except OSError:
            with pytest.raises(BadImage):
                decode(data[:-cut])
        else:
            decode(data[:-cut])


def png_header(width, height):
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + body
        + struct.pack(">I", zlib.crc32(body))
        + b"\0\0\1\0IDAT"
        + bytes(64)
    )


def jpeg_of(width, height):
    data = bytearray(encoded(scene(16, 16), "JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (png_header(10_000, 10_000), "too many pixels"),
        (png_header(60_000, 60_000), "too many pixels"),
        (jpeg_of(60_000, 60_000), "too many pixels"),
        (encoded(Image.new("RGB", (60_000, 1)), "PNG"), "extreme shape"),
        (encoded(Image.new("RGB", (1, 60_000)), "JPEG"), "extreme shape"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_no_usable_image_has_a_reason(data, reason):
    with pytest.raises(BadImage) as fault:
        to_pixels(data, 224)
    assert fault.value.reason == reason


def test_perceptual_hashes_are_near_for_near_copies_and_far_for_others():
    def bits(one, other):
        return bin(int(one) ^ int(other)).count("1")

    image = scene(300, 400)
    one = perceptual_hash(np.asarray(image))
    assert one.dtype == np.uint64
    copy = decode(encoded(image.resize((120, 90)), "JPEG", quality=70))
    assert bits(one, perceptual_hash(copy)) <= 6
    assert bits(one, perceptual_hash(np.asarray(scene(300, 400, 7)))) >= 16
    assert picture(encoded(image, "PNG"), 32).phash == one
    assert images.COSINES.shape == (8, 32)
