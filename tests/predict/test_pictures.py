"""Pictures by folder, pattern, name, shard and list: each found once, in order, read where it lies."""

import io
import os
import sys
import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from tests_support import drawing

from reactvl.manifest import ReactvlError
from reactvl.pool.images import BadImage
from reactvl.predict.pictures import listed, pictures

BODIES = {name: drawing(number, "png") for number, name in enumerate(["b.png", "a, b.PNG", "deeper/c.jpg", "ü.webp"])}


@pytest.fixture
def photos(tmp_path):
    for name, body in BODIES.items():
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(body)
    (tmp_path / "photos" / "notes.txt").write_text("x")
    (tmp_path / "photos" / ".hidden.png").write_bytes(b"")
    return tmp_path / "photos"


def shard(path: Path, keys) -> Path:
    with webdataset.TarWriter(str(path)) as writer:
        for number, key in enumerate(keys):
            writer.write({"__key__": key, "jpg": drawing(number), "txt": f"caption {number}"})
    return path


def typed(monkeypatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def names(given) -> list[str]:
    return [Path(name).name for name in pictures(given).names]


def test_files_by_folder_pattern_and_name(photos):
    assert names(str(photos)) == ["a, b.PNG", "b.png", "c.jpg", "ü.webp"]
    assert names(str(photos / "*.png")) == ["b.png"]
    assert names(str(photos / "**/*.jpg")) == ["c.jpg"]
    assert names(str(photos / "{b,a*}.{png,PNG}")) == ["a, b.PNG", "b.png"]
    b, notes = photos / "b.png", photos / "notes.txt"
    found = pictures([b, str(notes), b])
    assert found.names == [str(b), str(notes)] and found.read(0) == BODIES["b.png"]
    odd = photos / "[1].png"
    odd.write_bytes(b"odd")
    assert pictures(str(odd)).read(0) == b"odd"
    (photos / "none").mkdir()
    for bad, message in (
        ([], "nothing given"),
        (str(photos / "*.gif"), "matches no file"),
        (str(photos / "gone.png"), "no such file or folder"),
        (str(photos / "none"), r"no image and no \.tar"),
    ):
        with pytest.raises(ReactvlError, match=message):
            pictures(bad)


def test_shards_are_read_by_offset_and_their_samples_named_by_key(photos):
    shard(photos / "01.tar", ["x", "deeper/y"])
    shard(photos / "00.tar", ["x"])
    found = pictures(str(photos / "{00..01}.tar"))
    assert found.names == [f"{photos}/00.tar/x.jpg", f"{photos}/01.tar/x.jpg", f"{photos}/01.tar/deeper/y.jpg"]
    assert [found.read(row) for row in range(3)] == [drawing(0), drawing(0), drawing(1)]
    mixed = pictures(str(photos))
    assert len(mixed) == 7 and mixed.names[:3] == found.names  # a folder's shards beside its images
    assert mixed.faults == []


def test_what_a_shard_cannot_give_is_listed_and_does_not_end_the_run(photos):
    whole = shard(photos / "00.tar", ["x", "y"]).read_bytes()
    (photos / "01.tar").write_bytes(whole[:1500])
    (photos / "02.tar").write_bytes(b"no tar at all" * 100)
    with tarfile.open(photos / "03.tar", "w") as file:
        info = tarfile.TarInfo("../../up.txt")
        info.size = 1
        file.addfile(info, io.BytesIO(b"x"))
    found = pictures(str(photos / "*.tar"))
    assert found.names == [f"{photos}/00.tar/x.jpg", f"{photos}/00.tar/y.jpg"]
    assert {Path(name).name for name, _ in found.faults} >= {"02.tar"}
    assert any("truncated" in reason for name, reason in found.faults if "01.tar" in name)
    assert any(reason.startswith("no image") for name, reason in found.faults if "03.tar" in name)
    os.truncate(photos / "00.tar", 600)  # while the run goes on
    with pytest.raises(BadImage, match=r"unreadable shard: .*00.tar: is truncated"):
        found.read(1)


def test_paths_on_standard_input_by_line_or_by_nul(photos, monkeypatch):
    b, c = photos / "b.png", photos / "deeper/c.jpg"
    typed(monkeypatch, f"{b}\r\n\n{photos / 'gone.png'}\n{b}\n{c}".encode())
    found = pictures("-")
    assert found.names == [str(b), str(photos / "gone.png"), str(c)]
    with pytest.raises(BadImage, match="unreadable file: No such file"):
        found.read(1)
    strange = photos / "two\nlines, \udcff.png"
    b.rename(strange)
    typed(monkeypatch, os.fsencode(strange) + b"\0" + os.fsencode(c) + b"\0")
    found = pictures(["-"])
    assert found.names == [str(strange), str(c)] and found.read(0) == BODIES["b.png"]
    typed(monkeypatch, b"\n")
    with pytest.raises(ReactvlError, match="standard input names no file"):
        pictures("-")


def test_other_pictures_have_another_hash(photos):
    before = pictures(str(photos)).sha256
    assert pictures(str(photos)).sha256 == before
    (photos / "b.png").write_bytes(b"longer than nothing")
    changed = pictures(str(photos)).sha256
    assert changed != before
    os.utime(photos / "b.png", ns=(1, 1))
    assert pictures(str(photos)).sha256 != changed


@given(st.lists(st.binary(min_size=1).filter(lambda name: not set(name) & {0, 10, 13}), min_size=1))
def test_a_list_names_the_paths_it_was_made_of(parts):
    wanted = [Path(os.fsdecode(part)) for part in parts]
    assert listed(b"\n".join(parts) + b"\n") == wanted
    assert listed(b"\0".join(parts) + b"\0") == wanted
