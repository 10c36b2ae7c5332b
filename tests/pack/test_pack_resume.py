"""A pack that is killed ends, run again, in the bytes of one that never was."""

import hashlib

import pytest
from commands import killed
from img2dataset_outputs import downloads, make_picture, write_files

from reactvl.pack import pack, run


def files(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "timing.json"
    }


def finished(out, count):
    return out.exists() and len(list(out.glob("[0-9]*.tar"))) >= count


def test_a_killed_pack_ends_in_the_same_bytes(tmp_path):
    source, out = tmp_path / "photos", tmp_path / "killed"
    source.mkdir()
    picture = make_picture(0)
    for number in range(1500):
        (source / f"{number}.jpg").write_bytes(picture + bytes([number % 256]) * number)
        (source / f"{number}.txt").write_text(f"caption {number}")
    whole = pack(source, out=tmp_path / "whole", per_shard=50)
    killed("pack", source, "--out", out, "--per-shard", 50, when=lambda: finished(out, 3))
    assert not (out / "manifest.json").exists()
    done = {path: path.stat().st_mtime_ns for path in out.glob("[0-9]*.tar")}
    assert 3 <= len(done) < 30
    (out / ".00009.tar.1.part").write_bytes(b"what a kill in a write leaves")
    pack(source, out=out, per_shard=50)
    assert done == {path: path.stat().st_mtime_ns for path in done}
    assert files(out) == files(whole.folder)


def test_after_a_kill_only_shards_whose_source_changed_are_made_again(tmp_path, monkeypatch):
    source = write_files(tmp_path / "files", [downloads(shard, 3) for shard in range(4)])
    out = tmp_path / "pool"
    with monkeypatch.context() as patch:
        patch.setattr(run, "write_skipped", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pack(source, out=out)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    (source / "00001" / "000010002.txt").write_text("another caption")
    for path in [*(source / "00003").iterdir(), source / "00003.parquet"]:
        path.unlink()
    (source / "00003").rmdir()
    pool = pack(source, out=out)
    after = {path.name: path.stat().st_mtime_ns for path in pool.shards}
    assert {name for name in after if after[name] != before[name]} == {"00001.tar"}
    assert sorted(after) == ["00000.tar", "00001.tar", "00002.tar"]
    assert not (out / "00003.parquet").exists()
    assert files(out) == files(pack(source, out=tmp_path / "fresh").folder)
