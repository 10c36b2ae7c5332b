"""Published embeddings open as they are: what stands in their files is what the handle gives, and faults are named."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactvl.customize import customize
from reactvl.handles.embeddings import Embeddings
from reactvl.handles.foreign import is_published, parts_of
from reactvl.handles.foreign_columns import canonical, canonical_types, further
from reactvl.manifest import Manifest, ModelId, ReactvlError
from reactvl.models import load

MODEL = ModelId("a model", "0" * 64, 8)


def unit(rows, seed=0, dim=8):
    made = np.random.default_rng(seed).normal(size=(rows, dim))
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def metadata(rows, part=0):
    """What `clip inference` writes beside its vectors (clip_retrieval/clip_inference/writer.py)."""
    keys = [f"{part:05}{row:04}" for row in range(rows)]
    return {
        "image_path": keys,
        "caption": [f"caption {key}" for key in keys],
        "url": [f"https://example.org/{key}" for key in keys],
        "sha256": [f"{int(key):064x}" for key in keys],
        "width": [300.0 + row if row else float("nan") for row in range(rows)],
        "NSFW": ["UNLIKELY"] * rows,
        "similarity": [0.3] * rows,
    }


def write(folder, sizes=(5, 7), pad=1, dtype=np.float16, halves=("img_emb", "text_emb"), flat=False, columns=metadata):
    """A published folder; returns {half: [part's vectors]}."""
    held = {half: [] for half in halves}
    for number, rows in enumerate(sizes):
        for seed, half in enumerate(halves):
            vectors = unit(rows, 10 * number + seed).astype(dtype)
            held[half].append(vectors)
            home = folder if flat else folder / half
            home.mkdir(parents=True, exist_ok=True)
            np.save(home / f"{half}_{number:0{pad}}.npy", vectors)
        home = folder if flat else folder / "metadata"
        home.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns(rows, number)), home / f"metadata_{number:0{pad}}.parquet")
    return held


@pytest.mark.parametrize(("pad", "flat"), [(1, False), (4, False), (4, True), (2, True)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_any_padding_flat_or_not_half_or_single(tmp_path, pad, flat, dtype):
    held = write(tmp_path / "emb", sizes=(3,) * 12, pad=pad, flat=flat, dtype=dtype)
    found = Embeddings(tmp_path / "emb", MODEL)
    assert [part.number for part in found.parts] == list(range(12)) and len(found) == 36
    for part, images, texts in zip(found.parts, held["img_emb"], held["text_emb"], strict=True):
        assert part.images().dtype == dtype
        np.testing.assert_array_equal(part.images(), images)
        np.testing.assert_array_equal(part.texts(), texts)
        assert part.metadata(["key"])["key"][2].as_py() == f"{part.number:05}0002"


def test_laions_folders_of_other_names_are_as_good(tmp_path):
    write(tmp_path / "emb")
    (tmp_path / "emb" / "img_emb").rename(tmp_path / "emb" / "images")
    (tmp_path / "emb" / "text_emb").rename(tmp_path / "emb" / "texts")
    (tmp_path / "emb" / "metadata").rename(tmp_path / "emb" / "laion2B-en-metadata")
    assert len(Embeddings(tmp_path / "emb", MODEL)) == 12


@pytest.mark.parametrize("half", ["img_emb", "text_emb"])
def test_a_half_may_be_missing(tmp_path, half):
    write(tmp_path / "emb", halves=(half,))
    part = Embeddings(tmp_path / "emb", MODEL).parts[1]
    assert (part.images() is None, part.texts() is None) == (half == "text_emb", half == "img_emb")


def test_columns_come_under_one_name_and_what_is_missing_is_null(tmp_path):
    def laions(rows, part):
        return {
            "SAMPLE_ID": [part * 100 + row for row in range(rows)],
            "URL": ["u"] * rows,
            "TEXT": ["t"] * rows,
            "WIDTH": [640] * rows,
            "NSFW": [None] * rows,
        }

    write(tmp_path / "a")
    write(tmp_path / "b", columns=laions)
    first, second = Embeddings(tmp_path / "a", MODEL), Embeddings(tmp_path / "b", MODEL)
    row = first.parts[1].row(3)
    assert (row["key"], row["caption"], row["url"]) == (
        "000010003",
        "caption 000010003",
        "https://example.org/000010003",
    )
    assert row["sha256"] == (10003).to_bytes(32, "big") and row["width"] == 303
    assert first.parts[0].row(0, ["width", "shard", "offset", "phash", "similarity"]) == {
        "width": None,
        "shard": None,
        "offset": None,
        "phash": None,
        "similarity": 0.3,
    }
    assert second.parts[1].row(3, ["key", "caption", "url", "width"]) == {
        "key": "103",
        "caption": "t",
        "url": "u",
        "width": 640,
    }
    types = canonical_types()
    for part in (*first.parts, *second.parts):
        table = part.metadata()
        assert {name: table.schema.field(name).type for name in types} == types
    assert first.columns() == list(metadata(1)) and second.columns() == ["SAMPLE_ID", "URL", "TEXT", "WIDTH", "NSFW"]
    assert [path.name for path in first.metadata_files()] == ["metadata_0.parquet", "metadata_1.parquet"]
    assert not first.has_pictures and first.shards.num_rows == 0 and first.skipped.num_rows == 0


VALUES = st.one_of(st.none(), st.text(max_size=5), st.integers(-(2**40), 2**40), st.floats(), st.binary(max_size=4))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["key", "caption", "url", "sha256", "width", "offset"]), st.lists(VALUES, max_size=4))
def test_any_column_of_one_type_becomes_ours_or_null(name, values):
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) > 1:
        values = [str(value) for value in values]
    made = canonical(pa.table({name: values}), [name])[name]
    assert made.type == canonical_types()[name] and len(made) == len(values)
    for given_value, value in zip(values, made.to_pylist(), strict=True):
        if name in ("key", "caption", "url") and isinstance(given_value, str):
            assert value == given_value
        if name == "width" and isinstance(given_value, int) and abs(given_value) < 2**31:
            assert value == given_value


def test_further_columns_are_those_that_stand_for_none_of_ours():
    names = ["image_path", "key", "caption", "TEXT", "similarity", "__index_level_0__"]
    assert further(names) == ["image_path", "TEXT", "similarity"]


def renumbered(folder):
    (folder / "img_emb" / "img_emb_1.npy").rename(folder / "img_emb" / "img_emb_01.npy")
    np.save(folder / "img_emb" / "img_emb_1.npy", unit(7).astype(np.float16))


def rewritten(name, array):
    return lambda folder: np.save(folder / name, array)


FAULTS = {
    "two files of one number": (renumbered, r"img_emb_01\.npy and img_emb/img_emb_1\.npy are both part 1"),
    "no metadata": (lambda folder: (folder / "metadata/metadata_1.parquet").unlink(), "no metadata_1.parquet"),
    "no vectors": (
        lambda folder: [(folder / f"{half}/{half}_1.npy").unlink() for half in ("img_emb", "text_emb")],
        "no img_emb_1.npy",
    ),
    "other rows": (
        rewritten("img_emb/img_emb_1.npy", unit(6).astype(np.float16)),
        r"img_emb_1.npy: is of shape \(6, 8\), but metadata_1.parquet has 7 rows",
    ),
    "other width": (rewritten("text_emb/text_emb_0.npy", unit(5, dim=9).astype(np.float16)), r"shape \(5, 9\).*8 dim"),
    "other type": (rewritten("img_emb/img_emb_1.npy", unit(7)), "holds float64, wanted float16 or float32"),
    "integers": (rewritten("img_emb/img_emb_1.npy", np.zeros((7, 8), np.int32)), "holds int32"),
    "no matrix": (rewritten("img_emb/img_emb_1.npy", np.ones(7, np.float16)), r"shape \(7,\)"),
    "columns first": (
        rewritten("img_emb/img_emb_1.npy", np.asfortranarray(unit(7).astype(np.float16))),
        "Fortran's order",
    ),
    "not normalised": (
        rewritten("text_emb/text_emb_1.npy", (9 * unit(7)).astype(np.float16)),
        r"row 0 has norm (8\.9|9)",
    ),
    "one row not normalised": (
        rewritten("text_emb/text_emb_1.npy", (unit(7) * [[1], [1], [1], [1], [1], [1], [0.5]]).astype(np.float32)),
        "row 6 has norm 0.5.*reactvl import",
    ),
    "pickled": (
        lambda folder: np.save(folder / "img_emb/img_emb_1.npy", np.array([{}] * 7, object), allow_pickle=True),
        "no whole npy",
    ),
    "cut": (
        lambda folder: (folder / "img_emb/img_emb_1.npy").write_bytes(
            (folder / "img_emb/img_emb_1.npy").read_bytes()[:-3]
        ),
        "img_emb_1.npy: is no whole npy",
    ),
    "empty": (lambda folder: (folder / "img_emb/img_emb_1.npy").write_bytes(b""), "img_emb_1.npy: is no whole npy"),
    "no parquet": (
        lambda folder: (folder / "metadata/metadata_0.parquet").write_bytes(b"PAR1 not at all PAR1"),
        "metadata_0.parquet: is no whole parquet",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_are_named(tmp_path, case):
    write(tmp_path / "emb")
    break_it, says = FAULTS[case]
    break_it(tmp_path / "emb")
    with pytest.raises(ReactvlError, match=says):
        Embeddings(tmp_path / "emb", MODEL)


def test_a_row_of_nan_is_let_pass_since_no_search_finds_it(tmp_path):
    write(tmp_path / "emb", dtype=np.float32)
    vectors = unit(5).astype(np.float32)
    vectors[2] = np.nan
    np.save(tmp_path / "emb/img_emb/img_emb_0.npy", vectors)
    found = Embeddings(tmp_path / "emb", MODEL)
    hits = found.search(unit(1, 3)[0].astype(np.float32), k=12)
    assert len(hits) == 11 and (0, 2) not in {(hit.part, hit.row) for hit in hits}


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_search_is_that_of_float64(tmp_path, dtype):
    held = write(tmp_path / "emb", sizes=(50, 70), dtype=dtype)
    query = unit(1, 99)[0].astype(np.float32)
    keys = np.concatenate(held["img_emb"]).astype(np.float64)
    wanted = np.argsort(-(keys @ query.astype(np.float64)), kind="stable")[:20]
    found = Embeddings(tmp_path / "emb", MODEL).search(query, k=20)
    assert [hit.row + (50 if hit.part else 0) for hit in found] == wanted.tolist()
    assert found[0].key == f"{found[0].part:05}{found[0].row:04}" and found[0].shard is None


def test_the_model_must_be_given_and_fit(tmp_path, small_model):
    write(tmp_path / "emb")
    with pytest.raises(ReactvlError, match="do not say which model made them; pass --model"):
        Embeddings(tmp_path / "emb")
    with pytest.raises(ReactvlError, match="32 dimensions"):
        Embeddings(tmp_path / "emb", small_model)
    assert Embeddings(tmp_path / "emb", MODEL).model == MODEL


def test_a_text_query_is_encoded_by_the_model_given(tmp_path, small_model):
    model = load(small_model)
    vectors = model.encode_text([f"thing {row}" for row in range(6)]).numpy()
    (tmp_path / "emb").mkdir()
    np.save(tmp_path / "emb/text_emb_0.npy", vectors)
    pq.write_table(pa.table({"TEXT": [f"thing {row}" for row in range(6)]}), tmp_path / "emb/metadata_0.parquet")
    found = Embeddings(tmp_path / "emb", small_model)
    assert found.search("thing 4", k=1, mode="text")[0].caption == "thing 4"
    with pytest.raises(ReactvlError, match="has no image vectors"):
        found.search("thing 4", k=1)


def test_identity_follows_the_content_and_the_model_and_not_the_place(tmp_path):
    write(tmp_path / "emb")
    write(tmp_path / "elsewhere" / "emb")
    one = Embeddings(tmp_path / "emb", MODEL).identity(tmp_path / "out")
    assert one.path == "../emb"
    assert Embeddings(tmp_path / "elsewhere" / "emb", MODEL).identity(tmp_path / "out").sha256 == one.sha256
    other = ModelId("another", "1" * 64, 8)
    assert Embeddings(tmp_path / "emb", other).identity(tmp_path / "out").sha256 != one.sha256
    np.save(tmp_path / "emb/img_emb/img_emb_1.npy", unit(7, 5).astype(np.float16))
    changed = Embeddings(tmp_path / "emb", MODEL)
    assert changed.identity(tmp_path / "out").sha256 != one.sha256

    manifest = Manifest("retrieve", "0", {}, {"embeddings": one}, MODEL)
    with pytest.raises(ReactvlError, match="made from other embeddings"):
        Embeddings.of_input(tmp_path / "out", manifest)
    again = Manifest("retrieve", "0", {}, {"embeddings": changed.identity(tmp_path / "out")}, MODEL)
    assert len(Embeddings.of_input(tmp_path / "out", again)) == 12
    (tmp_path / "emb").rename(tmp_path / "gone")
    with pytest.raises(ReactvlError, match="are not there; move them back"):
        Embeddings.of_input(tmp_path / "out", again)


def test_a_stages_own_folder_is_no_published_one(tmp_path):
    """An embed that was killed while it wrote its parts has the same files, and must not pass for whole."""
    write(tmp_path / "emb")
    assert is_published(tmp_path / "emb")
    (tmp_path / "emb" / ".work").mkdir()
    assert not is_published(tmp_path / "emb")
    with pytest.raises(ReactvlError, match="was interrupted"):
        Embeddings(tmp_path / "emb", MODEL)
    (tmp_path / "emb" / ".work").rmdir()
    (tmp_path / "emb" / "manifest.json").write_text(json.dumps({"stage": "index"}))
    assert not is_published(tmp_path / "emb")
    assert not is_published(tmp_path / "nothing")
    with pytest.raises(ReactvlError, match=r"holds no img_emb_N\.npy"):
        parts_of(tmp_path)


def test_pictures_are_lacking_and_the_way_to_them_is_told(tmp_path, small_model):
    write(tmp_path / "emb")
    found = Embeddings(tmp_path / "emb", MODEL)
    for wants in (found.check_pool, lambda: found.read_image(0, 0)):
        with pytest.raises(ReactvlError, match=r"no pictures.*img2dataset --url_list pairs\.parquet"):
            wants()
    with pytest.raises(ReactvlError, match=r"no pictures.*img2dataset.*URL and TEXT"):
        customize(small_model, str(tmp_path / "emb"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ReactvlError, match="published without hashes"):
        found.verify()
