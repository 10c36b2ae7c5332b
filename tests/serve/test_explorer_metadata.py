"""Metadata that is read from a memory map is that of the parquet files; unfinished or stale conversions are never used."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from explorer_support import random_rows, urls, write_published

from reactvl.handles.embeddings import Embeddings
from reactvl.manifest import ModelId, ReactvlError
from reactvl.serve import metadata as module
from reactvl.serve.metadata import Metadata

MODEL = ModelId("none", "0" * 64, 8)


def opened(folder) -> Embeddings:
    return Embeddings(folder, MODEL)


def pool(folder, rows: int, seed: int = 0, **columns):
    return write_published(folder, [(0, random_rows(rows, dim=8, seed=seed), None, urls(rows) | columns)])


def test_every_row_is_that_of_the_parquet_file_across_batches_and_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHIFT", 6)
    monkeypatch.setattr(module, "ROWS", 64)
    generator = np.random.default_rng(0)
    rows = 1000
    texts = ["", "é", "🟢" * 3, "plain", "\x00", "x" * 5000, None]
    columns = {
        "key": [f"{row:09d}" for row in range(rows)],
        "caption": [texts[row % 7] for row in range(rows)],
        "url": [None] * rows,
        "phash": pa.array([None if row % 5 == 0 else (1 << 64) - 1 - row for row in range(rows)], pa.uint64()),
        "width": pa.array(generator.integers(-5, 5, rows), pa.int32()),
        "sha256": pa.array([None if row % 3 else bytes([row % 256]) * 32 for row in range(rows)], pa.binary(32)),
        "extra": [None if row % 2 else row / 2 for row in range(rows)],
    }
    folder = write_published(tmp_path / "pool", [(2, random_rows(rows, dim=8), None, columns)])
    pq.write_table(pa.table(columns), folder / "metadata/metadata_0002.parquet", row_group_size=37)
    found = Metadata(opened(folder), tmp_path / "cache")
    wanted = pq.read_table(folder / "metadata/metadata_0002.parquet").to_pylist()
    order = generator.permutation(rows)
    blank = [None] * rows
    hits = found.found(order, blank, blank, blank, [[]] * rows)
    for hit, row in zip(hits, order.tolist(), strict=True):
        one = wanted[row]
        assert (hit.part, hit.row, hit.key, hit.caption, hit.width) == (
            2,
            row,
            one["key"],
            one["caption"],
            one["width"],
        )
        assert hit.url is None and hit.height is None and hit.shard is None
        assert hit.sha256 == (one["sha256"] and one["sha256"].hex())
        assert found.all_of(row)["extra"] == one["extra"]
    sums, links, hashes = found.marks(order)
    assert links == blank and sums == [wanted[row]["sha256"] for row in order]
    assert hashes.tolist() == [wanted[row]["phash"] or 0 for row in order]
    assert found.captions(order) == [wanted[row]["caption"] for row in order]
    assert not list((tmp_path / "cache").glob(".*.part"))


def test_a_conversion_is_made_once_and_again_for_other_embeddings(tmp_path, monkeypatch):
    cache, made = tmp_path / "cache", []
    convert = module.convert
    monkeypatch.setattr(module, "convert", lambda part, *rest: (made.append(part.number), convert(part, *rest))[1])
    folder = pool(tmp_path / "pool", 10)
    Metadata(opened(folder), cache)
    Metadata(opened(folder), cache)
    assert made == [0]
    other = pool(tmp_path / "other", 10, seed=1, caption=["other"] * 10)  # as many rows, other pairs
    assert Metadata(opened(other), cache).captions(np.arange(10)) == ["other"] * 10
    assert made == [0, 0]
    assert Metadata(opened(folder), cache).captions(np.array([3])) == ["caption 3"] and made == [0, 0, 0]


@pytest.mark.parametrize("harm", ["cut", "gone", "nonsense", "list", "version", "file of others"])
def test_what_is_not_whole_is_made_again(tmp_path, harm):
    cache, folder = tmp_path / "cache", pool(tmp_path / "pool", 50)
    Metadata(opened(folder), cache)
    file, said = cache / "metadata_0.arrow", cache / "metadata.json"
    whole = file.read_bytes()
    if harm == "cut":
        file.write_bytes(whole[:-500])
    elif harm == "gone":
        file.unlink()
    elif harm == "nonsense":
        said.write_text("{")
    elif harm == "list":
        said.write_text("[]")
    elif harm == "version":
        said.write_text(json.dumps(json.loads(said.read_text()) | {"version": 0}))
    else:  # an interrupted conversion of other embeddings left its part behind
        said.unlink()
        Metadata(opened(pool(tmp_path / "other", 50, seed=2, caption=["other"] * 50)), tmp_path / "theirs")
        file.write_bytes((tmp_path / "theirs/metadata_0.arrow").read_bytes())
    found = Metadata(opened(folder), cache)
    assert found.captions(np.arange(50)) == [f"caption {row}" for row in range(50)]
    assert file.read_bytes() == whole


def test_a_killed_conversion_never_passes_for_whole_and_is_gone_on_with(tmp_path, monkeypatch):
    rows = 300
    parts = [(number, random_rows(rows, dim=8, seed=number), None, urls(rows, rows * number)) for number in range(3)]
    folder = write_published(tmp_path / "pool", parts)
    cache = tmp_path / "cache"
    script = f"""
        import os, signal
        from reactvl.serve import metadata as module
        from reactvl.handles.embeddings import Embeddings
        from reactvl.manifest import ModelId
        write = module.write
        calls = []
        def killed(writer, table):
            write(writer, table)
            calls.append(1)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        module.write = killed
        module.Metadata(Embeddings({str(folder)!r}, ModelId("none", "0" * 64, 8)), module.Path({str(cache)!r}))
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=os.environ, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert (cache / "metadata_0.arrow").exists() and not (cache / "metadata_1.arrow").exists()
    assert not (cache / "metadata.json").exists() and list(cache.glob(".metadata_1.arrow.*.part"))
    made, convert = [], module.convert
    monkeypatch.setattr(module, "convert", lambda part, *rest: (made.append(part.number), convert(part, *rest))[1])
    found = Metadata(opened(folder), cache)
    assert found.captions(np.arange(900)) == [f"caption {row}" for row in range(900)]
    assert made == [1, 2] and not list(cache.glob(".*.part"))


def test_two_processes_do_not_convert_at_once(tmp_path, monkeypatch):
    folder, cache = pool(tmp_path / "pool", 20), tmp_path / "cache"
    made, convert, both = [], module.convert, threading.Barrier(2)
    monkeypatch.setattr(module, "convert", lambda part, *rest: (made.append(part.number), convert(part, *rest))[1])
    found = []

    def open_() -> None:
        embeddings = opened(folder)
        both.wait()
        found.append(Metadata(embeddings, cache).captions(np.array([7])))

    threads = [threading.Thread(target=open_) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [0] and found == [["caption 7"]] * 2


def test_a_cache_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ReactvlError, match="the metadata cannot be kept here"):
        Metadata(opened(pool(tmp_path / "pool", 3)), tmp_path / "file" / "cache")


def test_pairs_and_rows_are_told_apart(tmp_path):
    parts = [(number, random_rows(rows, dim=8), None, urls(rows)) for number, rows in ((4, 3), (9, 5))]
    found = Metadata(opened(write_published(tmp_path / "pool", parts)), tmp_path / "cache")
    part, row = np.array([9, 4, 9, 5, 4, 100, 9, 0]), np.array([0, 2, 4, 0, 3, 0, -1, 0])
    assert found.rows_of(part, row).tolist() == [3, 2, 7, -1, -1, -1, -1, -1]
    assert [each.tolist() for each in found.pairs_of(np.arange(8))] == [[4] * 3 + [9] * 5, [0, 1, 2, 0, 1, 2, 3, 4]]
