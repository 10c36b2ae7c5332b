"""A handle opens whole folders only, and leads back to the very images."""

import numpy as np
import pytest
from PIL import Image

from reactvl.embed import embed
from reactvl.handles.embeddings import Embeddings
from reactvl.manifest import ReactvlError
from reactvl.models import load


@pytest.fixture
def made(pool, model, tmp_path):
    return embed(str(pool(shards=2, pairs=10)), model, out=tmp_path / "out", part_rows=10)


def test_search_finds_the_pair_itself(made, model):
    caption = made.parts[1].metadata(["caption"])["caption"][4].as_py()
    hits = made.search(caption, k=3, mode="text")
    assert hits[0].caption == caption and hits[0].score > 0.999
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)

    (hit,) = made.search(made.parts[1].images()[7].astype(np.float32), k=1)
    assert (hit.part, hit.row, hit.shard, hit.key) == (1, 7, "00001.tar", "000010007")

    from io import BytesIO

    image = Image.open(BytesIO(made.read_image(0, 2)))
    assert made.search(image, k=1, model=load(model))[0].key == "000000002"
    with pytest.raises(ReactvlError, match="mode"):
        made.search("x", mode="audio")
    with pytest.raises(ReactvlError, match="dimensions"):
        made.search(np.zeros(7, np.float32))


def test_a_query_of_another_model_is_refused(made, other_model):
    with pytest.raises(ReactvlError, match="which is not the model"):
        made.search("x", model=load(other_model))


def test_rows_that_do_not_agree_are_refused(made):
    path = made.folder / "img_emb" / "img_emb_1.npy"
    np.save(path, np.load(path)[:-1])
    with pytest.raises(ReactvlError, match=r"img_emb_1.npy: is of shape \(9, 32\)"):
        Embeddings(made.folder)


def test_a_cut_npy_is_refused(made):
    path = made.folder / "text_emb" / "text_emb_0.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ReactvlError, match="no whole npy"):
        Embeddings(made.folder)


def test_a_changed_npy_is_found_by_verify(made):
    made.verify()
    path = made.folder / "img_emb" / "img_emb_0.npy"
    array = np.load(path)
    array[3, 5] += 1
    np.save(path, array)
    with pytest.raises(ReactvlError, match=r"img_emb_0\.npy"):
        Embeddings(made.folder).verify()


@pytest.mark.parametrize("name", ["img_emb/img_emb_0.npy", "metadata/metadata_1.parquet", "shards.parquet"])
def test_a_missing_file_is_named(made, name):
    (made.folder / name).unlink()
    with pytest.raises(ReactvlError, match=name):
        Embeddings(made.folder)


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(ReactvlError, match="manifest"):
        Embeddings(tmp_path)


def test_changed_and_missing_shards_are_named_when_they_are_needed(made, tmp_path):
    shard = tmp_path / "pool" / "00001.tar"
    body = shard.read_bytes()
    shard.touch()
    Embeddings(made.folder).check_pool()
    shard.write_bytes(body[:-1])
    fresh = Embeddings(made.folder)
    assert fresh.read_image(0, 0)
    with pytest.raises(ReactvlError, match=r"00001\.tar: has changed since"):
        fresh.read_image(1, 0)
    shard.unlink()
    with pytest.raises(ReactvlError, match="put the pool back"):
        Embeddings(made.folder).check_pool()


def test_a_run_folder_moves_with_its_pool(made, tmp_path):
    image = made.read_image(1, 3)
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    tmp_path.rename(moved)
    assert Embeddings(moved / "out").read_image(1, 3) == image


def test_rows_out_of_range_are_refused(made):
    with pytest.raises(ReactvlError, match="none numbered"):
        made.read_image(0, 10)
    assert made.locate(13) == (1, 3)
