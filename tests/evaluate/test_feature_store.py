"""Kept features: an embeddings folder that is whole or says so, whoever wrote its parts."""

import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from reactvl.evaluate import features
from reactvl.evaluate.features import Features, folder_of, missing, parts_of, read, write_part
from reactvl.handles.embeddings import Embeddings
from reactvl.manifest import ModelId, ReactvlError
from reactvl.tasks import Samples

DIM = 8
MODEL = ModelId("tiny", "ab" * 32, DIM)


@pytest.fixture
def samples(monkeypatch) -> Samples:
    monkeypatch.setattr(features, "PART", 10)
    return Samples([f"c/{n}.png" for n in range(25)], np.arange(25) % 3, [], "print", lambda row: b"")


def vectors(rows: np.ndarray) -> np.ndarray:
    made = np.random.default_rng(0).standard_normal((100, DIM)).astype(np.float32)[rows]
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def fill(folder, samples, bad=(3, 24)):
    for part in parts_of(folder, samples):
        rows = np.array([row for row in range(part.first, part.stop) if row not in bad], np.int64)
        unread = {row: f"broken {row}" for row in range(part.first, part.stop) if row in bad}
        write_part(part, samples.names, Features(rows, vectors(rows), unread))


def test_what_is_written_is_read_and_opens_as_embeddings(tmp_path, samples):
    assert [part.number for part in missing(tmp_path, samples, DIM)] == [0, 1, 2]
    fill(tmp_path, samples)
    assert missing(tmp_path, samples, DIM) == []
    found = read(tmp_path, samples, DIM)
    rows = np.array([row for row in range(25) if row not in (3, 24)])
    assert np.array_equal(found.rows, rows) and np.array_equal(found.vectors, vectors(rows))
    assert found.bad == {3: "broken 3", 24: "broken 24"}
    assert np.array_equal(found.of(np.array([4, 23])), vectors(np.array([4, 23])))

    opened = Embeddings(tmp_path, MODEL)
    assert len(opened) == 23 and [part.rows for part in opened.parts] == [9, 10, 4]
    keys = [key for part in opened.parts for key in part.metadata(["key"])["key"].to_pylist()]
    assert keys == [samples.names[row] for row in rows]
    assert np.array_equal(np.concatenate([part.images() for part in opened.parts]), found.vectors)
    hit = opened.search(vectors(np.array([7]))[0], k=1)[0]
    assert hit.key == "c/7.png" and hit.score == pytest.approx(1)


@pytest.mark.parametrize(
    "harm", ["cut", "gone", "other dtype", "no metadata", "cut metadata", "names", "rows", "no json"]
)
def test_a_damaged_part_is_made_anew_and_never_read(tmp_path, samples, harm):
    fill(tmp_path, samples)
    array, metadata = tmp_path / "img_emb/img_emb_1.npy", tmp_path / "metadata/metadata_1.parquet"
    table = pq.read_table(metadata)
    if harm == "cut":
        array.write_bytes(array.read_bytes()[:200])
    elif harm == "gone":
        array.unlink()
    elif harm == "other dtype":
        np.save(array, np.load(array).astype(np.float16))
    elif harm == "no metadata":
        metadata.unlink()
    elif harm == "cut metadata":
        metadata.write_bytes(metadata.read_bytes()[:-20])
    elif harm == "names":
        samples.names[12] = "c/another.png"
    elif harm == "rows":
        pq.write_table(table.slice(1), metadata)
    else:
        pq.write_table(table.replace_schema_metadata({"reactvl": json.dumps([1, 2])}), metadata)
    assert [part.number for part in missing(tmp_path, samples, DIM)] == [1]
    with pytest.raises(ReactvlError, match=r"1 of 3 parts are missing or damaged, the first is number 1"):
        read(tmp_path, samples, DIM)


def test_a_row_twice_or_left_out_is_no_whole_part(tmp_path, samples):
    fill(tmp_path, samples)
    part = parts_of(tmp_path, samples)[0]
    for rows in ([0, 1, 2, 4, 4, 5, 6, 7, 8, 9], [0, 1, 2, 4, 5, 6, 7, 8, 9], [10, *range(1, 10)]):
        write_part(part, samples.names, Features(np.array(rows), vectors(np.array(rows)), {}))
        assert [one.number for one in missing(tmp_path, samples, DIM)] == [0], rows


def test_the_folder_is_named_by_all_that_features_depend_on(tmp_path, samples):
    def named(model=MODEL, given=samples, size=32, precision="fp32"):
        return folder_of(tmp_path, "dtd-test", given, model, size, precision).name

    other = [
        named(ModelId("tiny", "cd" * 32, DIM)),
        named(given=dataclasses.replace(samples, fingerprint="other")),
        named(size=64),
        named(precision="bf16"),
        named(),
    ]
    assert len(set(other)) == 5 and all(name.startswith("dtd-test-") for name in other)
    assert named(ModelId("another name", "ab" * 32, DIM)) == named()  # the weights count, not what they are called
