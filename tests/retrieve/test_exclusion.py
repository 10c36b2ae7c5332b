"""What is left out: by a list, and because it is or nearly is an evaluation image."""

import hashlib
import io
import tarfile
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from reactvl.manifest import ReactvlError
from reactvl.pool.images import picture
from reactvl.retrieve import exclusion
from reactvl.retrieve.exclusion import WHY, Exclusion, evaluation_images, images_exclusion, read_exclusion


def drawn(seed: int) -> Image.Image:
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((80, 80), Image.BICUBIC)


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


class Tower:
    """Vectors of pixels by a fixed random projection; counts the images that it has seen."""

    def __init__(self):
        self.model = SimpleNamespace(
            id=SimpleNamespace(sha256="ab" * 32),
            image_size=16,
            resize_mode="squash",
            interpolation="bicubic",
            config={"preprocess_cfg": {}},
        )
        self.seen = 0

    def images(self, pixels) -> np.ndarray:
        self.seen += len(pixels)
        flat = pixels.numpy().reshape(len(pixels), -1).astype(np.float64) - 128
        vectors = flat @ np.random.default_rng(0).standard_normal((flat.shape[1], 24))
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def seen(data: bytes) -> tuple[bytes, int, np.ndarray]:
    """Sum, hash and vector of a row of the pool."""
    found = picture(data, 16, resize_mode="squash")
    import torch

    return hashlib.sha256(data).digest(), int(found.phash), Tower().images(torch.from_numpy(found.pixels[None]))[0]


@pytest.fixture
def images(tmp_path):
    """Pictures 0 to 7 as files, in a tar, and in a zip; a file that is no picture, and what is no image at all."""
    home = tmp_path / "evaluation"
    (home / "test/cat").mkdir(parents=True)
    for number in (0, 1):
        (home / f"test/cat/{number}.PNG").write_bytes(encoded(drawn(number)))
    (home / "test/labels.txt").write_text("cat")
    (home / "test/.hidden.png").write_bytes(encoded(drawn(99)))
    (home / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    with tarfile.open(home / "0.tar", "w") as tar:
        for number in (2, 3, 4):
            for name, body in ((f"{number}.png", encoded(drawn(number))), (f"{number}.cls", b"1")):
                entry = tarfile.TarInfo(name)
                entry.size = len(body)
                tar.addfile(entry, io.BytesIO(body))
    with zipfile.ZipFile(home / "val.zip", "w") as archive:
        for number in (5, 6, 7):
            archive.writestr(f"inner/../{number}.png", encoded(drawn(number)))
        archive.writestr("labels.txt", "cat")
    return home


def test_images_of_every_kind_of_place(images):
    found = evaluation_images(images)
    assert len(found) == 9 and sum("broken" in name for name in found.names) == 1
    sums = {hashlib.sha256(found.read(at)).digest() for at in range(len(found))}
    assert sums >= {hashlib.sha256(encoded(drawn(number))).digest() for number in range(8)}
    assert found.names == evaluation_images([images, images / "0.tar"]).names  # each once, in the order of paths
    digest = found.digest
    (images / "test/cat/8.png").write_bytes(encoded(drawn(8)))
    assert evaluation_images(images).digest != digest


def test_what_is_and_nearly_is_an_evaluation_image(images):
    leaks = images_exclusion(evaluation_images(images), Tower())
    assert [name.rpartition("/")[2] for name, _ in leaks.unusable] == ["broken.jpg"]
    turned = drawn(2).rotate(2, resample=Image.BICUBIC, fillcolor=(128, 128, 128))
    rows = {
        "equal": encoded(drawn(4)),
        "equal, from the zip": encoded(drawn(6)),
        "re-encoded": encoded(drawn(1).resize((120, 120), Image.BICUBIC), "JPEG", quality=90),
        "another": encoded(drawn(500)),
        "broken": (images / "broken.jpg").read_bytes(),
    }
    sums, hashes, vectors = zip(*(seen(data) for data in list(rows.values())[:4]), strict=True)
    sums = [*sums, hashlib.sha256(rows["broken"]).digest()]
    hashes = np.array([*hashes, 0], np.uint64)
    vectors = np.stack([*vectors, np.full(24, np.nan, np.float32)])
    why = leaks.why([None] * 5, [None] * 5, sums, hashes, vectors)
    assert [WHY[reason] if reason >= 0 else None for reason in why] == [
        "equal bytes",
        "equal bytes",
        "near by perceptual hash",
        None,
        "equal bytes",
    ]
    # by the vector alone, where the hash is another
    by_vector = leaks.why([None], [None], [None], np.array([0], np.uint64), vectors[2:3])
    assert WHY[by_vector[0]] == "near by image vector"
    assert leaks.mask([None], [None], [None]).tolist() == [False]  # nothing known of a row: nothing to tell
    _, _, vector = seen(encoded(turned))
    cosine = (leaks.vectors @ vector).max()
    strict, loose = (
        Exclusion(sums=leaks.sums, hashes=leaks.hashes, vectors=leaks.vectors, cosine=edge, bits=0)
        for edge in (cosine + 1e-4, cosine - 1e-4)
    )
    asked = ([None], [None], [None], np.array([0], np.uint64), vector[None])
    assert not strict.mask(*asked)[0] and loose.mask(*asked)[0]


def test_without_a_model_bytes_and_hashes_are_compared(images):
    leaks = images_exclusion(evaluation_images(images))
    assert leaks.vectors is None and len(leaks.hashes) == 8 and len(leaks.sums) == 9
    copy, phash, _ = seen(encoded(drawn(3), "JPEG", quality=92))
    assert leaks.mask(["0.tar"], ["a"], [copy], np.array([phash], np.uint64)).tolist() == [True]


def test_a_stopped_run_does_not_encode_again(images, tmp_path):
    cache, tower = tmp_path / "leaks.npz", Tower()
    found = evaluation_images(images)
    first = images_exclusion(found, tower, cache=cache)
    again = images_exclusion(found, tower, cache=cache)
    assert tower.seen == 8
    assert (first.vectors == again.vectors).all() and (first.hashes == again.hashes).all()
    assert first.sums == again.sums and first.unusable == again.unusable
    (images / "test/cat/8.png").write_bytes(encoded(drawn(8)))
    assert len(images_exclusion(evaluation_images(images), tower, cache=cache).sums) == 10  # other images, other work
    tower.model.id.sha256 = "cd" * 32
    images_exclusion(evaluation_images(images), tower, cache=cache)
    assert tower.seen == 8 + 9 + 9


def test_what_cannot_be_read(images, tmp_path):
    for source, words in (
        (tmp_path / "absent", "absent does not exist"),
        (tmp_path / "empty", "holds no image"),
        ([], "nothing given holds no image"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(ReactvlError, match=words):
            evaluation_images(source)
    (images / "val.zip").write_bytes(b"PK no archive")
    with pytest.raises(ReactvlError, match=r"val\.zip: is no zip archive"):
        evaluation_images(images)
    (images / "val.zip").unlink()
    found = evaluation_images(images)
    (images / "test/cat/0.PNG").unlink()
    with pytest.raises(ReactvlError, match=r"0\.PNG: cannot be read"):
        images_exclusion(found)


def test_a_zip_bomb_is_cut_short(tmp_path, monkeypatch):
    """A member of endless zeros is read to the bound and is then no picture."""
    monkeypatch.setattr(exclusion, "MAX_MEMBER", 1000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(10_000_000))
        archive.writestr("b.png", encoded(drawn(0).resize((8, 8))))
    found = evaluation_images(tmp_path)
    assert len(found.read(0)) == 1000
    assert len(images_exclusion(found).unusable) == 1


def test_lists_of_keys_and_sums(tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text(f"00000.tar/a/b\n\n{'AB' * 32}\n  00001.tar/c  \n")
    listing = read_exclusion(listed)
    assert len(listing) == 3 and len(read_exclusion(None)) == 0
    asked = (
        ["00000.tar", "00000.tar", "x", None, "00001.tar"],
        ["a/b", "c", "y", None, "c"],
        [None, None, bytes.fromhex("ab" * 32), None, b""],
    )
    assert listing.mask(*asked).tolist() == [True, False, True, False, True]
    assert {WHY[reason] for reason in listing.why(*asked) if reason >= 0} == {"listed"}
    assert not Exclusion().mask(*asked).any()
    for text, words in (("nothing\n", "line 1: 'nothing'"), ("ab\x00\n", "line 1")):
        listed.write_text(text)
        with pytest.raises(ReactvlError, match=words):
            read_exclusion(listed)
    listed.write_bytes(b"\xff\xfe")
    with pytest.raises(ReactvlError, match="cannot be read"):
        read_exclusion(listed)
