"""Random mixes of formats, orders, keys and missing parts: every row is its own (shard, key) and reads its own bytes."""

import io
import json
import random
import tarfile
import warnings
from collections import Counter

import webdataset
from hypothesis import example, given, settings
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from reactvl.pool.reader import read_image, read_many
from reactvl.pool.tars import IMAGE_EXTENSIONS, catalogue

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
TEXTS = ("txt", "json")

plain = st.integers(0, 99_999).map("{:09d}".format)
odd = st.text("aZ09 _-ß界é'\"\\;$%{}[]*?#&=@~+,:\n\t", min_size=1, max_size=10).filter(lambda name: name.strip())
long = st.integers(90, 320).map(lambda length: "n" * length)
scripts = st.sampled_from(["кошка", "猫の写真", "صورة", "ภาพ", "🐼 panda", "e\u0301"])
folders = st.lists(odd | st.integers(60, 90).map(lambda n: "f" * n), max_size=3).map(
    lambda names: "".join(n + "/" for n in names)
)
keys = st.builds(str.__add__, folders, plain | odd | long | scripts).filter(
    lambda key: base_plus_ext(key + ".jpg") == (key, "jpg") and not key.startswith("/")
)
images = st.sampled_from([*IMAGE_EXTENSIONS, "JPG", "Png"])
others = st.sampled_from(["txt", "json", "cls", "seg.png", "npy"])
samples = st.tuples(keys, st.lists(images, max_size=2, unique_by=str.lower), st.lists(others, max_size=3, unique=True))


def body_of(key, ext, number):
    if ext == "json":
        return json.dumps({"caption": f"json of {key}", "number": number, "url": f"u{number}"}).encode()
    if ext == "txt":
        return f"text of {key} {number}".encode()
    return f"{ext} of {key} {number} ".encode() * (number % 7 + 1)


def write(path, members, form):
    """Members as given; a name that ustar cannot hold becomes PAX, as tarfile's users do."""
    with tarfile.open(path, "w", format=FORMATS[form], encoding="utf-8") as tar:
        for name, body in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            try:
                tar.addfile(entry, io.BytesIO(body))
            except ValueError:
                tar.fileobj.write(entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
                padded = -len(body) % tarfile.BLOCKSIZE
                tar.fileobj.write(body + bytes(padded))
                tar.offset = tar.fileobj.tell()


def members_of(drawn, first=0):
    return [
        (f"{key}.{ext}", body_of(key, ext.lower(), number))
        for number, (key, pictures, more) in enumerate(drawn, first)
        for ext in (*pictures, *more)
    ]


@settings(deadline=None, max_examples=120)
@given(st.lists(samples, max_size=6, unique_by=lambda one: one[0]), st.sampled_from([*FORMATS]), st.integers(0, 2**32))
@example([("a" * 250, ["jpg"], ["txt"]), ("猫/" * 60 + "b", ["png"], ["json"])], "ustar", 1)
@example([("a" * 250, ["jpg"], ["txt"]), ("猫/" * 60 + "b", ["png"], ["json"])], "gnu", 2)
@example([("a", ["JPG"], ["txt"]), ("A", ["jpg"], ["txt"])], "pax", 3)
def test_every_row_reads_its_own_bytes_in_any_order_of_members(tmp_path_factory, drawn, form, order):
    """The reference is tarfile: what it extracts under KEY.EXT, joined by webdataset's rule of names."""
    path = tmp_path_factory.mktemp("mix") / "0.tar"
    members = members_of(drawn)
    random.Random(order).shuffle(members)
    write(path, members, form)
    with tarfile.open(path, encoding="utf-8") as tar:
        held = {base_plus_ext(entry.name): (tar.extractfile(entry).read(), entry.offset_data) for entry in tar}
    assert len(held) == len(members)

    found = catalogue(path)
    with_image = {key for key, pictures, _ in drawn if pictures}
    assert Counter(sample.key for sample in found.samples) == Counter(with_image)
    bare = {key for key, pictures, more in drawn if not pictures and more}
    assert {(skip.key, skip.reason) for skip in found.skipped} == {(key, "no image") for key in bare}
    for sample in found.samples:
        mine = {ext.lower(): held[key, ext] for key, ext in held if key == sample.key}
        assert read_image(path, sample.offset, sample.size) == mine[sample.ext][0]
        assert sample.offset == mine[sample.ext][1]
        assert sample.ext == next(ext for ext in IMAGE_EXTENSIONS if ext in mine)
        assert set(sample.extra) == set(mine) - {sample.ext}
        assert all(read_image(path, *place) == mine[ext][0] for ext, place in sample.extra.items())
        told = json.loads(mine["json"][0]) if "json" in mine else {}
        assert sample.caption == (mine["txt"][0].decode() if "txt" in mine else told.get("caption"))
        assert (sample.url, sample.fields) == (told.get("url"), {"number": told["number"]} if told else {})
    read = dict(read_many((path, sample.offset, sample.size) for sample in found.samples))
    assert [read[n] for n in range(len(read))] == [read_image(path, s.offset, s.size) for s in found.samples]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(samples, min_size=1, max_size=5, unique_by=lambda one: one[0]),
    st.lists(st.sampled_from([*FORMATS]), min_size=1, max_size=3),
    st.integers(0, 2**32),
)
def test_rows_are_webdatasets_samples(tmp_path_factory, drawn, forms, order):
    """Sample by sample, members shuffled within, over several shards of several formats."""
    home = tmp_path_factory.mktemp("wds")
    chance = random.Random(order)
    rows = []
    for number, form in enumerate(forms):
        members = []
        for at, sample in enumerate(drawn):
            own = members_of([sample], 10 * number + at)
            members += chance.sample(own, len(own))
        write(home / f"{number}.tar", members, form)
        rows += [(str(home / f"{number}.tar"), sample) for sample in catalogue(home / f"{number}.tar").samples]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = webdataset.WebDataset(
            [str(home / f"{n}.tar") for n in range(len(forms))], shardshuffle=False, empty_check=False
        )
        wanted = [one for one in read if any(ext in IMAGE_EXTENSIONS for ext in one)]
    assert [(url, sample.key) for url, sample in rows] == [(one["__url__"], one["__key__"]) for one in wanted]
    for (path, sample), one in zip(rows, wanted, strict=True):
        assert read_image(path, sample.offset, sample.size) == one[sample.ext]
        assert {ext: read_image(path, *place) for ext, place in sample.extra.items()} == {
            ext: body for ext, body in one.items() if not ext.startswith("__") and ext != sample.ext
        }


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_second_sample_of_a_key_never_changes_the_first(tmp_path_factory, data):
    drawn = data.draw(
        st.lists(samples.filter(lambda one: one[1]), min_size=1, max_size=4, unique_by=lambda one: one[0])
    )
    again = data.draw(st.lists(st.sampled_from(drawn), min_size=1, max_size=3, unique_by=lambda one: one[0]))
    form = data.draw(st.sampled_from([*FORMATS]))
    home = tmp_path_factory.mktemp("twice")
    first = members_of(drawn)
    second = [(name, b"second " + body) for sample in again for name, body in members_of([sample])]
    write(home / "once.tar", first, form)
    write(home / "twice.tar", first + second, form)
    found = catalogue(home / "twice.tar")
    assert found.samples == catalogue(home / "once.tar").samples
    assert sorted((skip.key, skip.reason) for skip in found.skipped) == sorted(
        (key, "duplicate key") for key, _, _ in again
    )
