"""MNIST's files: read as Debian and torchvision lay them out, an image as a PNG of its pixels; damage in one line."""

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from reactvl.manifest import ReactvlError
from reactvl.tasks import find
from reactvl.tasks.idx import read_array

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def packed(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write(folder, prefix, images, labels, end=".gz"):
    folder.mkdir(parents=True, exist_ok=True)
    opener = gzip.open if end else open
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        with opener(folder / f"{prefix}-{name}-ubyte{end}", "wb") as file:
            file.write(packed(array))
    return folder


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (12, 28, 20), np.uint8), np.arange(12, dtype=np.uint8) % 10


@pytest.mark.parametrize(
    ("folder", "end"), [("fashion-mnist", ".gz"), ("FashionMNIST/raw", ""), ("mnist", ".gz"), ("MNIST/raw", "")]
)
def test_a_folder_of_its_files_is_a_task(folder, end, pictures, tmp_path):
    images, labels = pictures
    write(tmp_path / folder, "t10k", images, labels, end)
    write(tmp_path / folder, "train", images[::-1], labels[::-1], end)
    name = "fashion-mnist" if "ashion" in folder else "mnist"
    [task] = find([name], tmp_path)
    assert (task.benchmark, len(task.classes), task.test_images, task.metric) == (name, 10, 10000, "accuracy")
    test, train = task.samples(), task.samples("train")
    assert test.names[:2] == ["test/0", "test/1"] and train.names[5] == "train/5"
    assert test.labels.tolist() == labels.tolist() == train.labels.tolist()[::-1] and test.labels.dtype == np.int64
    for row in range(12):
        shown = Image.open(io.BytesIO(test.read(row)))
        assert shown.format == "PNG" and np.array_equal(np.asarray(shown), images[row])
        assert test.read(row) == train.read(11 - row)
    assert test.fingerprint != train.fingerprint
    if name == "fashion-mnist":
        assert task.classes[0] == "t-shirt" and task.synonyms[0] == ("t-shirt", "top")


def test_classes_come_from_the_folder_or_from_the_caller(pictures, tmp_path):
    images, labels = pictures
    write(tmp_path / "kuzushiji", "t10k", images, labels % 3)
    with pytest.raises(ReactvlError, match=r"nothing names their classes; put classnames\.txt into it"):
        find(None, tmp_path)
    [task] = find(None, tmp_path, classes=["a", "b"])
    samples = task.samples()
    assert set(samples.labels) == {0, 1} and len(samples.unusable) == 3
    assert samples.unusable[0] == ("test/2", "its label 2 is beyond the 2 classes")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(samples.read(2)))), images[3])
    (tmp_path / "kuzushiji/classnames.txt").write_text("a\nb\nc\n")
    assert find(None, tmp_path)[0].classes == ["a", "b", "c"]


def test_damaged_files_end_in_one_line(pictures, tmp_path):
    images, labels = pictures
    whole = packed(images)
    folder = write(tmp_path / "mnist", "t10k", images, labels)
    path = folder / "t10k-images-idx3-ubyte.gz"
    for data, message in (
        (gzip.compress(whole)[:-40], "is damaged|has .* bytes where"),
        (gzip.compress(whole[:-9]), r"has 6,711 bytes where its header says 6,720"),
        (gzip.compress(whole + b"x"), "has more bytes where its header says 6,720"),
        (gzip.compress(b"\0\0\x0d\3" + whole[4:]), "is no IDX file of bytes in 3 dimensions"),
        (gzip.compress(whole[:4] + b"\xff" * 12), "at most 2,147,483,648 are read"),
        (b"no gzip", "is damaged"),
        (b"", "is no IDX file"),
    ):
        path.write_bytes(data)
        with pytest.raises(ReactvlError, match=message) as fault:
            find(None, tmp_path)[0].samples().read(0)
        assert "\n" not in str(fault.value) and path.name in str(fault.value)
    write(folder, "t10k", images[:-1], labels)
    with pytest.raises(ReactvlError, match=r"has 12 labels, t10k-images-idx3-ubyte\.gz has 11 images"):
        find(None, tmp_path)[0].samples()


@given(st.binary(max_size=80), st.booleans())
def test_any_bytes_are_an_array_or_one_error(tmp_path_factory, data, zipped):
    path = tmp_path_factory.getbasetemp() / f"any-idx1-ubyte{'.gz' if zipped else ''}"
    path.write_bytes(gzip.compress(b"\0\0\x08\1" + data) if zipped else data)
    try:
        assert read_array(path, 1).ndim == 1
    except ReactvlError as fault:
        assert "\n" not in str(fault)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_debians_fashion_mnist_is_10000_images_of_ten_classes():
    [task] = find(["fashion-mnist"], DEBIAN.parent)
    samples = task.samples()
    assert len(samples) == task.test_images == 10_000 and samples.unusable == []
    assert np.bincount(samples.labels).tolist() == [1000] * 10
    assert Image.open(io.BytesIO(samples.read(9999))).size == (28, 28)
    assert len(task.samples("train")) == 60_000
