"""The catalogue agrees with tarfile and webdataset on good shards, and says exactly what is lost of bad ones."""

import io
import json
import os
import tarfile

import pytest
import webdataset
from hypothesis import example, given, settings
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from reactvl.manifest import ReactvlError
from reactvl.pool.headers import Tar
from reactvl.pool.reader import read_image
from reactvl.pool.tars import catalogue, fingerprint, key_of, same_shard, scan

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def write(path, members, form="ustar"):
    with tarfile.open(path, "w", format=FORMATS[form]) as tar:
        for name, body in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            tar.addfile(entry, io.BytesIO(body))
    return path


part = st.text("abcß界._ -0", min_size=1, max_size=12)
long_part = st.integers(60, 90).map(lambda length: "n" * length)
names = st.lists(part | long_part, min_size=1, max_size=4).map("/".join)
bodies = st.binary(max_size=1500)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["gnu", "pax"]), st.lists(st.tuples(names, bodies), max_size=6))
@example("pax", [("x" * 300 + ".jpg", b"1")])
@example("gnu", [("x/" * 200 + "y.jpg", b"1" * 512)])
def test_members_are_tarfiles_members(tmp_path_factory, form, members):
    path = write(tmp_path_factory.mktemp("tar") / "0.tar", members, form)
    with tarfile.open(path) as tar:
        wanted = [(entry.name, entry.offset_data, entry.size) for entry in tar if entry.isreg()]
    with Tar(path) as tar:
        assert [tuple(member) for member in tar] == wanted
        assert tar.faults == []


def test_ustar_prefix_folders_links_and_global_headers(tmp_path):
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "whole archive"}) as tar:
        for name, kind in (
            ("d", tarfile.DIRTYPE),
            ("l", tarfile.SYMTYPE),
            ("h", tarfile.LNKTYPE),
            ("p", tarfile.FIFOTYPE),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "elsewhere/" * 15
            tar.addfile(entry)
        entry = tarfile.TarInfo("a.jpg")
        entry.size = 3
        tar.addfile(entry, io.BytesIO(b"abc"))
    prefix = write(tmp_path / "1.tar", [("f" * 90 + "/" + "g" * 80 + "/h.jpg", b"x")], "ustar")
    with Tar(path) as tar:
        assert [member.name for member in tar] == ["a.jpg"]
    with Tar(prefix) as tar:
        assert [member.name for member in tar] == ["f" * 90 + "/" + "g" * 80 + "/h.jpg"]


@given(st.lists(st.text("ab.c/J", max_size=6), min_size=1, max_size=3).map("".join))
def test_keys_are_webdatasets(name):
    key, ext = base_plus_ext(name)
    assert key_of(name) == ((key, ext.lower()) if key is not None else (None, ""))


@pytest.mark.parametrize("form", FORMATS)
def test_samples_of_a_shard(tmp_path, form):
    members = [
        ("000000000.jpg", b"first"),
        ("000000000.json", json.dumps({"caption": "of json", "url": "https://x/0", "status": "success"}).encode()),
        ("000000000.txt", b" two\nlines "),
        ("deep/folder/b.JPEG", b"second"),
        ("deep/folder/b.txt", "ß界".encode()),
        ("c.png", b"third"),
        ("c.cls", b"7"),
        ("d.webp", b""),
        ("d.json", b'{"caption": "from json", "NSFW": NaN}'),
        ("__meta__/x.jpg", b"no sample"),
        ("README", b"no sample"),
    ]
    path = write(tmp_path / "0.tar", members, form)
    found = scan(path)
    assert [(s.key, s.ext, s.caption, s.url, s.status) for s in found] == [
        ("000000000", "jpg", " two\nlines ", "https://x/0", "success"),
        ("deep/folder/b", "jpeg", "ß界", None, None),
        ("c", "png", None, None, None),
        ("d", "webp", "from json", None, None),
    ]
    assert [read_image(path, s.offset, s.size) for s in found] == [b"first", b"second", b"third", b""]
    assert read_image(path, *found[2].extra["cls"]) == b"7"


def test_webdatasets_own_writer_is_read(tmp_path):
    path = tmp_path / "0.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for number in range(5):
            writer.write(
                {"__key__": f"k{number}", "jpg": b"\xff" * number * 300, "txt": f"c{number}", "json": {"url": "u"}}
            )
    assert [(s.key, s.size, s.caption, s.url) for s in scan(path)] == [
        (f"k{n}", n * 300, f"c{n}", "u") for n in range(5)
    ]


def test_members_of_a_key_are_joined_wherever_they_stand_and_a_second_sample_is_listed(tmp_path):
    members = [("a.jpg", b"1"), ("b.jpg", b"2"), ("a.txt", b"A"), ("b.txt", b"B"), ("a.jpg", b"3"), ("a.txt", b"other")]
    found = catalogue(write(tmp_path / "0.tar", members))
    assert [(s.key, s.caption, s.size) for s in found.samples] == [("a", "A", 1), ("b", "B", 1)]
    assert [(skip.key, skip.reason) for skip in found.skipped] == [("a", "duplicate key")]


def test_a_cut_shard_keeps_whole_members_and_says_what_is_lost(tmp_path):
    path = write(tmp_path / "0.tar", [("a.jpg", b"1" * 600), ("a.txt", b"A"), ("b.jpg", b"2" * 5000), ("b.txt", b"B")])
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        place = tar.getmember("b.jpg").offset_data
    path.write_bytes(whole[: place + 1234])
    found = catalogue(path)
    assert [s.key for s in found.samples] == ["a"]
    assert found.skipped == [("b", "truncated", "member 'b.jpg': expected 5,000 bytes, 1,234 left")]

    path.write_bytes(whole[: place - 100])  # within a header
    assert catalogue(path).skipped == [("", "truncated", "the end mark is missing (expected 512 bytes, 412 left)")]


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_any_cut_gives_a_prefix_of_the_samples_and_one_fault(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / "0.tar"
    write(path, [(f"{n}{'long' * 40}.{ext}", b"x" * (n * 400)) for n in range(4) for ext in ("jpg", "txt")], "pax")
    whole = catalogue(path)
    end = whole.samples[-1].extra["txt"]
    body = path.read_bytes()
    cut = data.draw(st.integers(0, sum(end) - 1))
    path.write_bytes(body[:cut])
    found = catalogue(path)
    kept = [s for s in found.samples if s.caption is not None]
    assert kept == whole.samples[: len(kept)]
    assert [skip.reason for skip in found.skipped if skip.reason != "no image"] == ["truncated"]
    assert "expected" in found.skipped[-1].detail and "left" in found.skipped[-1].detail


def test_damage_is_listed_and_never_raises(tmp_path):
    path = write(tmp_path / "0.tar", [("a.jpg", b"1"), ("a.txt", b"A"), ("b.jpg", b"2"), ("b.txt", b"B")])
    body = bytearray(path.read_bytes())
    body[2048:2060] = b"\xff" * 12  # the header of b.jpg
    path.write_bytes(body)
    found = catalogue(path)
    assert [s.key for s in found.samples] == ["a"]
    assert [skip.reason for skip in found.skipped] == ["damaged shard"]

    path.write_bytes(os.urandom(3000))
    assert catalogue(path).samples == []
    with pytest.raises(ReactvlError, match="no tar file"):
        scan(path)
    with pytest.raises(ReactvlError, match="cannot be read"):
        scan(tmp_path / "none.tar")


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=600), st.integers(0, 3000))
def test_no_bytes_make_the_reader_fail(tmp_path_factory, noise, at):
    path = tmp_path_factory.mktemp("noise") / "0.tar"
    write(path, [("a" * 120 + ".jpg", b"1" * 700), ("a" * 120 + ".json", b"{}")], "pax")
    body = bytearray(path.read_bytes())
    body[at : at + len(noise)] = noise
    path.write_bytes(body)
    for sample in catalogue(path).samples:
        assert 0 <= sample.offset <= sample.offset + sample.size <= len(body)


def test_oversized_text_and_damaged_json(tmp_path):
    members = [
        ("a.jpg", b"1"),
        ("a.txt", b"x" * (1 << 20) + b"x"),
        ("b.jpg", b"1"),
        ("b.json", b"{"),
        ("b.txt", b"B"),
        ("c.txt", b"C"),
    ]
    found = catalogue(write(tmp_path / "0.tar", members))
    assert [(s.key, s.caption) for s in found.samples] == [("b", "B")]
    assert found.damaged_json == 1
    assert [(skip.key, skip.reason) for skip in found.skipped] == [("a", "oversized text"), ("c", "no image")]


def test_fingerprints(tmp_path):
    path = tmp_path / "0.tar"
    path.write_bytes(bytes(200_000))
    known = fingerprint(path)
    os.utime(path, ns=(1, 1))
    assert same_shard(path, known)  # touched, not changed
    path.write_bytes(bytes(199_999) + b"1")
    os.utime(path, ns=(1, 1))
    assert not same_shard(path, known)
    path.write_bytes(bytes(200_001))
    assert not same_shard(path, known)
