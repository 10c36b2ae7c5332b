"""What was put into an index comes out beside the metadata of its ids."""

import shutil
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from importing_support import DIM, column, files, taken, vector, vectors

from reactvl.importing import faiss_index, import_embeddings
from reactvl.manifest import ReactvlError

REAL = Path(__file__).parent / "clip_retrieval_index"
ROWS = 600


def put(index, rows=ROWS, ids=None):
    """`rows` vectors in an index, trained on them."""
    keys = vectors(range(rows), 0).astype(np.float32)
    index.train(keys)
    if ids is None:
        index.add(keys)
    else:
        index.add_with_ids(keys, ids)
    return index


def made(text, **options):
    return put(faiss.index_factory(DIM, text, faiss.METRIC_INNER_PRODUCT), **options)


def written(folder, index, rows=ROWS, name="knn.index"):
    folder.mkdir(exist_ok=True)
    faiss.write_index(index, str(folder / name))
    table = pa.table({"key": [f"k{row}" for row in range(rows)], "caption": [f"c{row}" for row in range(rows)]})
    pq.write_table(table, folder / "metadata.parquet", row_group_size=70)
    return folder / name


def test_clip_retrievals_own_index_folder(tmp_path, model):
    """Made by clip-retrieval and autofaiss themselves: their ids count the parts by name, part 10 before part 2."""
    found = import_embeddings(REAL, model, out=tmp_path / "out", part_rows=10)
    keys = column(found, "key")
    assert len(found) == 36 and keys[:9:3] == ["000000000", "000010000", "000100000"]
    for half, name in enumerate(("image", "text")):
        np.testing.assert_array_equal(taken(found, name), vectors([int(key) for key in keys], half))
    for key, caption, url, sha256, nsfw in zip(
        keys, *(column(found, name) for name in ("caption", "url", "sha256", "NSFW")), strict=True
    ):
        assert (caption, url, nsfw) == (f"caption {key}", f"https://example.org/{key}", "UNLIKELY")
        assert sha256 == int(key).to_bytes(32, "big")
    assert set(column(found, "width")) == {300, 301, 302} and not found.has_pictures
    found.verify()
    assert found.search(vector(20001, 0).astype(np.float32), k=1)[0].key == "000020001"


def test_one_half_of_an_index_folder(tmp_path, model):
    found = import_embeddings(REAL, model, out=tmp_path / "out", keys="text")
    assert found.parts[0].images() is None and len(found.parts[0].texts()) == 36
    (tmp_path / "one").mkdir()
    shutil.copy(REAL / "text.index", tmp_path / "one")
    shutil.copytree(REAL / "metadata", tmp_path / "one" / "metadata")
    alone = import_embeddings(tmp_path / "one" / "text.index", model, out=tmp_path / "alone")
    np.testing.assert_array_equal(taken(alone, "text"), taken(found, "text"))
    with pytest.raises(ReactvlError, match=r"has no image\.index"):
        import_embeddings(tmp_path / "one", model, out=tmp_path / "x", keys="image")


def test_metadata_as_arrow_files(tmp_path, model):
    """clip-retrieval's parquet_to_arrow: IPC files in a folder, read in the order of their names."""
    shutil.copytree(REAL, tmp_path / "index")
    shutil.rmtree(tmp_path / "index" / "metadata")
    tables = [pq.read_table(path) for path in sorted((REAL / "metadata").glob("*.parquet"))]
    for number, some in enumerate((tables[:5], tables[5:])):
        table = pa.concat_tables(some).replace_schema_metadata(None)
        (tmp_path / "index" / "metadata").mkdir(exist_ok=True)
        path = str(tmp_path / "index" / "metadata" / f"{number}.arrow")
        with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
    found = import_embeddings(tmp_path / "index", model, out=tmp_path / "arrow")
    whole = import_embeddings(REAL, model, out=tmp_path / "parquet")
    for name in ("key", "caption", "NSFW", "width"):
        assert column(found, name) == column(whole, name)


def test_metadata_as_hdf5(tmp_path, model):
    """clip-retrieval's parquet_to_hdf5: a group `dataset`, a column an array."""
    h5py = pytest.importorskip("h5py")
    index = written(tmp_path / "index", made("Flat"))
    with h5py.File(tmp_path / "index" / "metadata.hdf5", "w") as file:
        columns = file.create_group("dataset")
        columns.create_dataset("caption", data=np.array([f"c{row}" for row in range(ROWS)], object), maxshape=(None,))
        columns.create_dataset("width", data=np.arange(ROWS), compression="gzip", maxshape=(None,))
    found = import_embeddings(index, model, out=tmp_path / "out", metadata=tmp_path / "index" / "metadata.hdf5")
    assert column(found, "caption") == [f"c{row}" for row in range(ROWS)] and column(found, "width") == list(
        range(ROWS)
    )


EXACT = [
    "Flat",
    "HNSW16,Flat",
    "IVF16,Flat",
    "L2norm,Flat",
    "SQfp16",
    "HNSW16,SQfp16",
    "IVF8,PQ4x4,RFlat",
]


@pytest.mark.parametrize("text", EXACT)
def test_vectors_come_back_exactly(tmp_path, model, text, monkeypatch):
    monkeypatch.setattr(faiss_index, "PIECE_ROWS", 250)
    index = written(tmp_path / "index", made(text))
    found = import_embeddings(index, model, out=tmp_path / "out")
    np.testing.assert_array_equal(taken(found, "image"), vectors(range(ROWS), 0))
    assert column(found, "key") == [f"k{row}" for row in range(ROWS)]
    assert found.manifest.facts["image"]["loss"] is None


def test_vectors_that_an_index_holds_nearly_are_taken_and_it_is_said(tmp_path, model, capsys):
    index = written(tmp_path / "index", made("IVF16,SQ8"))
    found = import_embeddings(index, model, out=tmp_path / "out", keys="text")
    wanted = vectors(range(ROWS), 0).astype(np.float64)
    assert (np.einsum("nd,nd->n", taken(found, "text").astype(np.float64), wanted) > 0.995).all()
    assert "text vectors were coded (scalar quantizer 8bit)" in capsys.readouterr().out
    assert found.parts[0].images() is None


@pytest.mark.parametrize(
    ("text", "loss"), [("PQ8x4", "IndexPQ"), ("PCA16,Flat", "from 32 to 16 dimensions"), ("SQ4", "4bit")]
)
def test_vectors_that_an_index_holds_roughly_are_refused_unless_asked_for(tmp_path, model, text, loss):
    index = written(tmp_path / "index", made(text))
    with pytest.raises(ReactvlError, match=f"only roughly .*{loss}.*--lossy"):
        import_embeddings(index, model, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    found = import_embeddings(index, model, out=tmp_path / "out", lossy=True)
    assert len(found) == ROWS and loss in found.manifest.facts["image"]["loss"]
    np.testing.assert_allclose(np.linalg.norm(taken(found, "image").astype(np.float64), axis=1), 1, atol=2e-3)


def test_an_index_that_keeps_no_vectors_is_refused(tmp_path, model):
    index = faiss.IndexIVFSpectralHash(faiss.IndexFlatL2(DIM), DIM, 4, 64, 10.0)
    with pytest.raises(ReactvlError, match="import the img_emb"):
        import_embeddings(written(tmp_path / "index", put(index)), model, out=tmp_path / "out", lossy=True)


@pytest.mark.parametrize("inner", ["Flat", "IVF16,Flat"])
def test_ids_of_a_map_name_the_rows_of_the_metadata(tmp_path, model, inner):
    ids = np.random.default_rng(0).permutation(ROWS)
    index = faiss.IndexIDMap(faiss.index_factory(DIM, inner, faiss.METRIC_INNER_PRODUCT))
    keys = np.empty((ROWS, DIM), np.float32)
    keys[:] = vectors(range(ROWS), 0)
    index.train(keys)
    index.add_with_ids(keys[ids], ids)
    found = import_embeddings(written(tmp_path / "index", index), model, out=tmp_path / "out")
    np.testing.assert_array_equal(taken(found, "image"), vectors(range(ROWS), 0))

    index = faiss.IndexIDMap(faiss.IndexFlatIP(DIM))
    index.add_with_ids(keys, np.arange(ROWS) + 5)
    with pytest.raises(ReactvlError, match="are not the numbers 0 to 599"):
        import_embeddings(written(tmp_path / "other", index), model, out=tmp_path / "x")


def test_ids_that_lists_lack_are_listed_and_left_out(tmp_path, model):
    ids = np.arange(ROWS)
    ids[::100] = ROWS + 7
    index = written(tmp_path / "index", made("IVF16,Flat", ids=ids))
    found = import_embeddings(index, model, out=tmp_path / "out")
    assert len(found) == ROWS - 6
    skipped = found.skipped.to_pylist()
    assert [(row["key"], row["reason"]) for row in skipped] == [
        (f"k{row}", "NaN or infinity") for row in range(0, ROWS, 100)
    ]


def test_memory_maps_and_whole_reads_agree(tmp_path):
    for text in ("IVF16,SQ8", "Flat", "HNSW16,SQ8"):
        path = written(tmp_path / text.replace(",", "-"), made(text))
        read = faiss_index.Stored(path, False).vectors(17, 200)
        np.testing.assert_array_equal(read, faiss.read_index(str(path)).reconstruct_n(17, 200))


def rows_less(folder):
    pq.write_table(pq.read_table(folder / "metadata.parquet").slice(1), folder / "metadata.parquet")


def half_of_another_size(folder):
    faiss.write_index(made("Flat"), str(folder / "image.index"))
    faiss.write_index(made("Flat", rows=ROWS - 1), str(folder / "text.index"))


FAULTS = {
    "metadata of other rows": (rows_less, "knn.index", r"holds 600 vectors, its metadata .* 599 rows"),
    "no metadata": (lambda f: (f / "metadata.parquet").unlink(), "knn.index", "no metadata lie beside it"),
    "not FAISS's": (lambda f: (f / "knn.index").write_bytes(b"no index"), "knn.index", "FAISS cannot read it"),
    "cut": (
        lambda f: (f / "knn.index").write_bytes((f / "knn.index").read_bytes()[:200]),
        "knn.index",
        "FAISS cannot read",
    ),
    "empty": (
        lambda f: faiss.write_index(faiss.IndexFlatIP(DIM), str(f / "knn.index")),
        "knn.index",
        "holds no vector",
    ),
    "of another width": (
        lambda f: faiss.write_index(faiss.IndexFlatIP(8), str(f / "knn.index")),
        "knn.index",
        "no vector",
    ),
    "halves of unequal rows": (half_of_another_size, "", r"differ in rows \(image.index 600, text.index 599\)"),
    "damaged metadata": (
        lambda f: (f / "metadata.parquet").write_bytes(b"x" * 50),
        "knn.index",
        "cannot be read as metadata",
    ),
    "not there": (lambda f: None, "gone.index", "does not exist"),
    "a file of the wrong kind": (lambda f: None, "metadata.parquet", "give the folder that it lies in"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_are_named_before_any_work(tmp_path, model, case):
    written(tmp_path / "index", made("Flat"))
    break_it, name, says = FAULTS[case]
    break_it(tmp_path / "index")
    with pytest.raises(ReactvlError, match=says):
        import_embeddings(tmp_path / "index" / name, model, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_width_that_is_not_the_models_is_refused(tmp_path, model):
    index = faiss.IndexFlatIP(8)
    index.add(np.eye(8, dtype=np.float32))
    path = written(tmp_path / "index", index, rows=8)
    with pytest.raises(ReactvlError, match=r"its vectors have 8 dimensions, those of .* 32"):
        import_embeddings(path, model, out=tmp_path / "out")


def test_float16_residuals_are_as_good_as_float16(tmp_path, model):
    index = written(tmp_path / "index", made("IVF16,SQfp16"))
    found = import_embeddings(index, model, out=tmp_path / "out")
    np.testing.assert_allclose(taken(found, "image"), vectors(range(ROWS), 0), atol=5e-4)
    assert found.manifest.facts["image"]["loss"] == "scalar quantizer fp16 of residuals"


def test_lists_in_a_file_of_their_own_are_looked_for_beside_the_index_only(tmp_path, model):
    """autofaiss's large indexes keep their lists in `.ivfdata`; the path that the index names is the maker's."""
    home = tmp_path / "made"
    index = written(home, made("IVF16,Flat"))
    lists = faiss.read_index(str(index))
    moved = faiss.OnDiskInvertedLists(16, lists.code_size, str(home / "knn.ivfdata"))
    moved.merge_from_1(faiss.extract_index_ivf(lists).invlists)
    lists.replace_invlists(moved, False)
    faiss.write_index(lists, str(index))
    moved.this.disown()
    home.rename(tmp_path / "moved")
    found = import_embeddings(tmp_path / "moved" / "knn.index", model, out=tmp_path / "out")
    np.testing.assert_array_equal(taken(found, "image"), vectors(range(ROWS), 0))
    (tmp_path / "moved" / "knn.ivfdata").unlink()
    with pytest.raises(ReactvlError, match="FAISS cannot read it"):
        import_embeddings(tmp_path / "moved" / "knn.index", model, out=tmp_path / "out")


def test_a_second_run_does_nothing_and_a_changed_source_is_noticed(tmp_path, model):
    index = written(tmp_path / "index", made("Flat"))
    import_embeddings(index, model, out=tmp_path / "out")
    before = files(tmp_path / "out")
    import_embeddings(index, model, out=tmp_path / "out")
    assert files(tmp_path / "out") == before
    written(tmp_path / "index", made("Flat", rows=100), rows=100)
    with pytest.raises(ReactvlError, match="its input `source` has changed"):
        import_embeddings(index, model, out=tmp_path / "out")
    assert len(import_embeddings(index, model, out=tmp_path / "out", overwrite=True)) == 100
