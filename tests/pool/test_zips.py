"""Members of zips are read by offset as zipfile reads them; damaged and hostile ones are named."""

import io
import struct
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactvl.manifest import ReactvlError
from reactvl.pool.images import BadImage
from reactvl.pool.reader import close_all
from reactvl.pool.zips import catalogue, read_member

BODIES = {
    "a.jpg": b"\xff\xd8" + bytes(range(256)) * 40,
    "in/ner/b c.png": b"",
    "ünï/貓.webp": b"x" * 100_000,
    "zero.bin": bytes(5),
}


def packed(path, bodies=BODIES, method=zipfile.ZIP_DEFLATED, **options):
    with zipfile.ZipFile(path, "w", method, **options) as file:
        file.mkdir("empty folder")
        for name, body in bodies.items():
            file.writestr(name, body)
    return path


def all_read(path):
    members, faults = catalogue(path)
    return {name: read_member(path, member) for name, member in members.items()}, faults


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_zipfiles(method, tmp_path):
    path = packed(tmp_path / "a.zip", method=method)
    assert all_read(path) == (BODIES, [])
    with zipfile.ZipFile(path) as file:
        assert [name for name in file.namelist() if not name.endswith("/")] == list(catalogue(path)[0])


def test_members_of_a_stream_a_zip64_and_behind_other_bytes_are_found(tmp_path):
    class Pipe(io.RawIOBase):  # cannot seek: sizes stand behind the members, not in their headers
        def __init__(self):
            self.bytes = bytearray()

        def writable(self):
            return True

        def write(self, some):
            self.bytes += some
            return len(some)

    pipe = Pipe()
    packed(pipe)
    (tmp_path / "stream.zip").write_bytes(pipe.bytes)
    with zipfile.ZipFile(tmp_path / "large.zip", "w") as file, file.open("a.jpg", "w", force_zip64=True) as member:
        member.write(b"zip64")
    (tmp_path / "behind.zip").write_bytes(b"#!/bin/sh\n" * 9 + packed(tmp_path / "a.zip").read_bytes())
    assert all_read(tmp_path / "stream.zip") == all_read(tmp_path / "behind.zip") == (BODIES, [])
    assert all_read(tmp_path / "large.zip") == ({"a.jpg": b"zip64"}, [])


def test_what_cannot_be_read_is_named_and_the_rest_is_read(tmp_path):
    path = tmp_path / "mixed.zip"
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "w") as file:
        file.writestr("good.jpg", b"good")
        file.writestr("bz.jpg", b"b" * 100, zipfile.ZIP_BZIP2)
        file.writestr("twice.jpg", b"first")
        file.writestr("twice.jpg", b"last")
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02", 0, data.index(b"good.jpg", data.index(b"PK\x01\x02")))
    found, faults = all_read(path)
    assert found == {"good.jpg": b"good", "twice.jpg": b"last"}
    assert [name for name, _ in faults] == ["bz.jpg", "twice.jpg"] and "method 12 (bzip2)" in faults[0][1]
    data[at + 8] |= 1  # the flag that says encrypted
    path.write_bytes(data)
    assert ("good.jpg", "is encrypted") in catalogue(path)[1]
    struct.pack_into("<I", data, at + 24, 1 << 30)
    data[at + 8] &= ~1
    path.write_bytes(data)
    assert "1,073,741,824 bytes" in dict(catalogue(path)[1])["good.jpg"]


def test_a_damaged_member_is_a_bad_image_and_its_neighbours_are_not(tmp_path):
    path = packed(tmp_path / "a.zip", {"a": b"a" * 999, "b": bytes(range(256)) * 9, "c": b"c"}, zipfile.ZIP_STORED)
    members, _ = catalogue(path)
    data = bytearray(path.read_bytes())
    data[data.index(b"aaaa") + 500] ^= 1
    data[members["b"].header] ^= 1
    path.write_bytes(data)
    close_all()
    with pytest.raises(BadImage, match="fails its CRC"):
        read_member(path, members["a"])
    with pytest.raises(BadImage, match="no member begins"):
        read_member(path, members["b"])
    assert read_member(path, members["c"]) == b"c"


def test_a_member_that_unpacks_to_more_than_it_says_is_cut_off(tmp_path):
    path = packed(tmp_path / "bomb.zip", {"bomb.jpg": bytes(50_000_000)})
    member = catalogue(path)[0]["bomb.jpg"]
    with pytest.raises(BadImage, match="does not unpack to the 1,000 bytes"):
        read_member(path, member._replace(size=1000))
    with pytest.raises(BadImage, match="does not unpack"):
        read_member(path, member._replace(packed=member.packed - 5))
    raw = packed(tmp_path / "raw.zip", {"r": b"\xff" * 99}, zipfile.ZIP_STORED)
    with pytest.raises(BadImage, match="invalid block type"):
        read_member(raw, catalogue(raw)[0]["r"]._replace(method=zipfile.ZIP_DEFLATED))


def test_an_archive_that_is_none_or_gone_or_shrunk_ends_in_one_line(tmp_path):
    path = packed(tmp_path / "a.zip")
    members, _ = catalogue(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    close_all()
    with pytest.raises(ReactvlError, match=r"a\.zip: is no zip file, or a damaged one"):
        catalogue(path)
    with pytest.raises(ReactvlError, match="truncated"):
        read_member(path, list(members.values())[-1])
    (tmp_path / "none.zip").write_bytes(b"")
    with pytest.raises(ReactvlError, match=r"none\.zip: is no zip file"):
        catalogue(tmp_path / "none.zip")
    with pytest.raises(ReactvlError, match=r"gone\.zip: cannot be read \(No such file"):
        catalogue(tmp_path / "gone.zip")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_damage_ends_in_an_error_of_ours_or_in_the_members_as_they_were(data):
    with tempfile.TemporaryDirectory() as folder:
        path = packed(Path(folder) / "a.zip", {"a": b"a" * 30, "b": bytes(range(99))})
        body = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(body[: data.draw(st.integers(1, len(body)))] if data.draw(st.booleans()) else body)
        close_all()
        try:
            members, _ = catalogue(path)
            for member in members.values():
                read = read_member(path, member)
                assert read in (b"a" * 30, bytes(range(99)), b"") or len(read) == member.size
        except (ReactvlError, BadImage):
            pass
