"""Published npy folders, imported: unit rows bit by bit, others normalised, columns kept, pictures found by key."""

import json
import tarfile
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from importing_support import column, taken, vectors
from tests_support import drawing, write_pool

from reactvl.customize import customize
from reactvl.handles.embeddings import Embeddings
from reactvl.importing import import_embeddings, published, source
from reactvl.manifest import ReactvlError

SHARDS, EACH = 4, 6


def key_of(number):
    return f"{number // EACH:05}{number % EACH:04}"


def write(folder, members, dtype=np.float16, scale=1, columns=None):
    """Parts of these members (lists of pair numbers)."""
    for number, rows in enumerate(members):
        for half, name in enumerate(("img_emb", "text_emb")):
            (folder / name).mkdir(parents=True, exist_ok=True)
            np.save(folder / name / f"{name}_{number}.npy", (vectors(rows, half).astype(dtype) * dtype(scale)))
        (folder / "metadata").mkdir(exist_ok=True)
        table = {"image_path": [key_of(row) for row in rows], **(columns(rows, number) if columns else {})}
        pq.write_table(pa.table(table), folder / "metadata" / f"metadata_{number}.parquet", row_group_size=5)
    return folder


MEMBERS = [list(range(7)), [], list(range(7, 24))]


def test_unit_rows_are_copied_bit_by_bit_and_parts_compacted(tmp_path, model, monkeypatch):
    monkeypatch.setattr(published, "block_rows", lambda dim: 4)
    found = import_embeddings(write(tmp_path / "emb", MEMBERS), model, out=tmp_path / "out")
    assert [part.rows for part in found.parts] == [24] and column(found, "key") == [key_of(row) for row in range(24)]
    for half, name in enumerate(("image", "text")):
        np.testing.assert_array_equal(taken(found, name), vectors(range(24), half))


@pytest.mark.parametrize(
    ("dtype", "scale"), [(np.float32, 11), (np.float64, 1e-30), (np.float16, 0.5), (np.float32, 1e30)]
)
def test_other_rows_are_normalised_in_the_precision_they_have(tmp_path, model, dtype, scale):
    found = import_embeddings(write(tmp_path / "emb", MEMBERS, dtype, scale), model, out=tmp_path / "out")
    np.testing.assert_allclose(taken(found, "image"), vectors(range(24), 0), atol=3e-4)


def test_unusable_rows_are_listed_by_half(tmp_path, model):
    folder = write(tmp_path / "emb", MEMBERS, np.float32)
    for half, name, row, value in (("img_emb", 0, 2, np.nan), ("text_emb", 2, 5, np.inf), ("text_emb", 2, 6, 0)):
        path = folder / half / f"{half}_{name}.npy"
        held = np.load(path)
        held[row] = value
        np.save(path, held)
    found = import_embeddings(folder, model, out=tmp_path / "out")
    listed = [(row["shard"], row["key"], row["reason"], row["detail"]) for row in found.skipped.to_pylist()]
    assert listed == [
        ("metadata_0", key_of(2), "NaN or infinity", "its image vector holds a NaN or an infinity"),
        ("metadata_2", key_of(12), "NaN or infinity", "its text vector holds a NaN or an infinity"),
        ("metadata_2", key_of(13), "zero vector", "its text vector holds only zeros"),
    ]
    kept = [row for row in range(24) if row not in (2, 12, 13)]
    assert column(found, "key") == [key_of(row) for row in kept]
    np.testing.assert_array_equal(taken(found, "image"), vectors(kept, 0))
    assert found.manifest.counts == {
        "pairs": 21,
        "skipped": 3,
        "skipped: NaN or infinity": 2,
        "skipped: zero vector": 1,
    }


def test_further_columns_are_kept_in_the_type_that_holds_all_parts(tmp_path, model):
    def columns(rows, part):
        if part == 0:
            return {"similarity": [1] * len(rows), "NSFW": [True] * len(rows), "tags": [["a"]] * len(rows)}
        return {"similarity": [0.5] * len(rows), "NSFW": ["UNSURE"] * len(rows), "late": pa.array([None] * len(rows))}

    found = import_embeddings(write(tmp_path / "emb", MEMBERS, columns=columns), model, out=tmp_path / "out")
    assert column(found, "similarity") == [1.0] * 7 + [0.5] * 17
    assert column(found, "NSFW") == ["true"] * 7 + ["UNSURE"] * 17
    assert column(found, "late") == [None] * 24 and "tags" not in found.columns()


def test_pictures_are_found_by_key_wherever_they_lie(tmp_path, model):
    """Rows in another order than the pool, over parts: each leads to its own picture; samples of no row do no harm."""
    order = np.random.default_rng(1).permutation(SHARDS * EACH).tolist()
    folder = write(tmp_path / "emb", [order[:9], order[9:20]], columns=lambda rows, _: {"url": [None] * len(rows)})
    pool = write_pool(tmp_path / "pool", SHARDS, EACH)
    found = import_embeddings(folder, model, out=tmp_path / "out", pool=str(pool))
    assert column(found, "key") == [key_of(row) for row in order[:20]]
    for row, number in enumerate(order[:20]):
        assert found.read_image(0, row) == drawing(number, ("jpg", "png", "webp")[number % 3])
    np.testing.assert_array_equal(taken(found, "text"), vectors(order[:20], 1))
    assert sum(found.shards["rows"].to_pylist()) == 20
    tuned = customize(model, found, out=tmp_path / "tuned", steps=1, batch_size=4, workers=1)
    assert tuned.id.sha256 != model.id.sha256


def test_what_cannot_be_joined_is_listed(tmp_path, model):
    folder = write(tmp_path / "emb", [list(range(EACH * 2))])
    pool = tmp_path / "pool"
    for home, rows in (("a", range(6)), ("b", range(5, 10))):  # pair 5 stands in both
        (pool / home).mkdir(parents=True, exist_ok=True)
        with tarfile.open(pool / home / "00000.tar", "w") as tar:
            for row in rows:
                members = [("jpg", drawing(row))] + ([("txt", b"a caption")] if row != 3 else [])
                for ext, data in members:
                    info = tarfile.TarInfo(f"{key_of(row)}.{ext}")
                    info.size = len(data)
                    tar.addfile(info, BytesIO(data))
    found = import_embeddings(folder, model, out=tmp_path / "out", pool=[str(pool / "a"), str(pool / "b")])
    listed = {(row["key"], row["reason"]) for row in found.skipped.to_pylist()}
    assert listed == {
        (key_of(3), "no caption"),
        (key_of(5), "key in several shards"),
        (key_of(10), "not in the pool"),
        (key_of(11), "not in the pool"),
    }
    kept = [0, 1, 2, 4, 6, 7, 8, 9]
    assert column(found, "key") == [key_of(row) for row in kept]
    assert [found.read_image(0, row) for row in range(8)] == [drawing(number) for number in kept]
    assert found.shards["shard"].to_pylist() == ["a/00000.tar", "b/00000.tar"]


def test_a_shard_that_changed_since_is_refused(tmp_path, model):
    pool = write_pool(tmp_path / "pool", SHARDS, EACH)
    found = import_embeddings(write(tmp_path / "emb", MEMBERS), model, out=tmp_path / "out", pool=str(pool))
    shard = pool / "00001.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(ReactvlError, match=r"00001\.tar: has changed"):
        Embeddings(found.folder).check_pool()


def other(name, change):
    def break_it(folder):
        path = folder / name
        np.save(path, change(np.load(path)))

    return break_it


FAULTS = {
    "rows": (
        other("img_emb/img_emb_0.npy", lambda held: held[1:]),
        "part 0 have unequal rows .metadata_0.parquet 7, img",
    ),
    "widths": (other("text_emb/text_emb_2.npy", lambda held: held[:, 1:]), r"several widths \(text_emb_2.npy 31"),
    "type": (other("text_emb/text_emb_2.npy", lambda held: held.astype(int)), "holds int64"),
    "half": (lambda f: (f / "text_emb/text_emb_2.npy").unlink(), "part 2 has image vectors, part 0 image and text"),
    "metadata": (lambda f: (f / "metadata/metadata_2.parquet").unlink(), "no metadata_2.parquet"),
    "own": (lambda f: (f / "manifest.json").write_text(json.dumps({})), "is a folder of this tool already"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_are_named_before_any_work(tmp_path, model, case):
    folder = write(tmp_path / "emb", MEMBERS)
    break_it, says = FAULTS[case]
    break_it(folder)
    with pytest.raises(ReactvlError, match=says):
        import_embeddings(folder, model, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_nothing_is_told_what_could_be_taken(tmp_path, model):
    with pytest.raises(ReactvlError, match=r"no image\.index or text\.index, no img_emb_N\.npy .* no feature TSV"):
        import_embeddings(tmp_path, model, out=tmp_path / "out")
    with pytest.raises(ReactvlError, match="part_rows is 0"):
        import_embeddings(tmp_path, model, out=tmp_path / "out", part_rows=0)


def test_blocks_are_of_bounded_memory():
    for dim in (32, 512, 1280):
        assert source.block_rows(dim) * dim * 4 <= source.BLOCK_BYTES
