"""Nothing half-written passes for whole; one writer at a time; a request decides."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from reactvl import manifest
from reactvl.manifest import ReactvlError, changed_files, read_manifest, replacing, stage_folder, write_bytes


def make(out, options, overwrite=False, content=b"data"):
    with stage_folder(out, "embed", options=options, inputs={}, overwrite=overwrite) as stage:
        if not stage.done:
            write_bytes(out / "sub" / "file", content)
            stage.finish(counts={"rows": 1})
        return stage


def test_a_finished_folder_is_recognised_and_left_alone(tmp_path):
    make(tmp_path / "out", {"k": 1})
    before = (tmp_path / "out" / "manifest.json").stat().st_mtime_ns
    assert make(tmp_path / "out", {"k": 1}).done
    assert (tmp_path / "out" / "manifest.json").stat().st_mtime_ns == before
    assert read_manifest(tmp_path / "out", "embed").counts == {"rows": 1}


def test_another_request_is_refused_in_words_and_replaced_when_told(tmp_path):
    out = tmp_path / "out"
    make(out, {"k": 1})
    with pytest.raises(ReactvlError, match=r"k was 1, is 2\); pass --overwrite"):
        make(out, {"k": 2})
    make(out, {"k": 2}, overwrite=True, content=b"other")
    assert read_manifest(out).options == {"k": 2}
    with pytest.raises(ReactvlError, match="output of `embed`, not of `retrieve`"):
        read_manifest(out, "retrieve")


def test_a_strangers_files_are_never_touched(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(ReactvlError, match=r"photo\.jpg"):
        make(tmp_path, {})
    assert (tmp_path / "photo.jpg").read_bytes() == b"mine"
    make(tmp_path / "out", {})
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(ReactvlError, match=r"notes\.txt"):
        make(tmp_path / "out", {"k": 2}, overwrite=True)
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_changed_and_missing_files_are_found(tmp_path):
    make(tmp_path / "out", {})
    assert changed_files(tmp_path / "out") == []
    (tmp_path / "out" / "sub" / "file").write_bytes(b"datA")
    assert changed_files(tmp_path / "out") == ["sub/file"]
    (tmp_path / "out" / "sub" / "file").unlink()
    assert "sub/file" in make(tmp_path / "out", {}, overwrite=True).manifest.files
    assert changed_files(tmp_path / "out") == []


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    write_bytes(tmp_path / "file", b"old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "file") as part:
        part.write_bytes(b"half")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def hold(out, ready):
    with stage_folder(out, "embed", options={}, inputs={}):
        ready.set()
        time.sleep(60)


def test_two_writers_exclude_each_other_and_a_killed_one_does_not_block(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path / "out", ready))
    process.start()
    assert ready.wait(60)
    with pytest.raises(ReactvlError, match="another process is writing"):
        make(tmp_path / "out", {})
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with pytest.raises(ReactvlError, match="was interrupted"):
        read_manifest(tmp_path / "out")
    assert make(tmp_path / "out", {}).done


def test_an_input_is_found_again_when_the_run_moves(tmp_path):
    make(tmp_path / "run" / "a", {})
    with stage_folder(
        tmp_path / "run" / "b",
        "retrieve",
        options={},
        inputs={"a": manifest.input_id(tmp_path / "run/a", tmp_path / "run/b")},
    ) as stage:
        stage.finish(counts={})
    (tmp_path / "run").rename(tmp_path / "moved")
    found = manifest.input_path(tmp_path / "moved" / "b", read_manifest(tmp_path / "moved" / "b"), "a")
    assert found == (tmp_path / "moved" / "a").resolve()


def test_a_damaged_manifest_is_an_error_that_names_it(tmp_path):
    make(tmp_path / "out", {})
    path = tmp_path / "out" / "manifest.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps(raw | {"surprise": 1}))
    with pytest.raises(ReactvlError, match=r"manifest\.json: not a manifest"):
        read_manifest(tmp_path / "out")
