"""A customized model beside the base: its ranking is that of its own towers on the pictures."""

import numpy as np
import pytest

from reactvl.handles.embeddings import Embeddings
from reactvl.manifest import ReactvlError
from reactvl.models import load
from reactvl.models.encoder import Encoder
from reactvl.pool.images import to_pixels
from reactvl.serve import compare
from reactvl.serve.asking import Answer, Ask, Term
from reactvl.serve.explorer import Explorer


@pytest.fixture(scope="module")
def explorer(small_run, tmp_path_factory) -> Explorer:
    return Explorer(small_run, precision="fp32", cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def customized(small_run) -> Encoder:
    return Encoder(load(small_run / "customized/gated-image"), precision="fp32")


@pytest.fixture(scope="module")
def vectors(small_run, customized) -> np.ndarray:
    """Every picture of the pool as the customized model sees it."""
    import torch

    emb = Embeddings(small_run / "embeddings")
    pixels = [torch.from_numpy(to_pixels(emb.read_image(0, row), 32)) for row in range(len(emb))]
    return customized.images(torch.stack(pixels))


def answered(explorer: Explorer, *terms: Term, **options) -> Answer:
    [answer] = explorer.answer([Ask(terms, model="gated-image", **options)])
    if isinstance(answer, ReactvlError):
        raise answer
    return answer


def test_the_bases_nearest_are_ranked_by_the_customized_towers(explorer, customized, vectors, monkeypatch):
    monkeypatch.setattr(compare, "NEAREST", 25)
    monkeypatch.setattr("reactvl.serve.explorer.NEAREST", 25)
    [base] = explorer.answer([Ask((Term(text="a red thing"),), k=25, dedup=False)])
    answer = answered(explorer, Term(text="a red thing"), k=90, dedup=False)
    [query] = customized.texts(["a red thing"])
    nearest = [hit.row for hit in base.hits]
    scores = vectors @ query
    assert sorted(hit.row for hit in answer.hits) == sorted(nearest)
    np.testing.assert_allclose(
        [hit.similarity for hit in answer.hits], scores[[hit.row for hit in answer.hits]], atol=1e-5
    )
    assert [hit.similarity for hit in answer.hits] == sorted((hit.similarity for hit in answer.hits), reverse=True)
    assert answer.notes == ["gated-image ranks the 25 pairs that the base model finds nearest"]
    assert answer.exact and answer.hits[0].image_similarity == answer.hits[0].similarity


def test_pictures_and_pairs_ask_with_the_customized_models_own_vectors(explorer, vectors):
    pixels = explorer.pixels(explorer.picture(0, 5))
    answer = answered(explorer, Term(pixels=pixels), Term(-0.3, pair=(0, 8)), k=90, dedup=False)
    query = vectors[5].astype(np.float64) - 0.3 * vectors[8]
    scores = vectors @ (query / np.linalg.norm(query))
    assert len(answer.hits) == 90
    np.testing.assert_allclose(
        [hit.similarity for hit in answer.hits], scores[[hit.row for hit in answer.hits]], atol=1e-4
    )


def test_filters_hold_for_the_customized_models_ranking(explorer, vectors, customized):
    [query] = customized.texts(["red"])
    scores = vectors @ query
    least = float(np.sort(scores)[-9] - 1e-4)
    answer = answered(explorer, Term(text="red"), min_similarity=least, dedup=False)
    assert sorted(hit.row for hit in answer.hits) == sorted(np.flatnonzero(scores >= least).tolist())
    answer = answered(explorer, Term(text="red"), class_id=1, k=90, dedup=False)
    assert answer.hits and all(1 in hit.class_ids for hit in answer.hits)
    answer = answered(explorer, Term(text="red"), caption="BLUE thing", k=90, dedup=False)
    assert {hit.row for hit in answer.hits} == {row for row in range(90) if row % 3 == 2}


def test_a_picture_is_read_and_encoded_once(small_run, tmp_path, monkeypatch):
    explorer = Explorer(small_run, cache=tmp_path)
    read = []
    monkeypatch.setattr(
        explorer.pictures, "read", lambda row, before=explorer.pictures.read: (read.append(row), before(row))[1]
    )
    first = answered(explorer, Term(text="red"), k=90)
    assert sorted(read) == list(range(90))
    again = answered(explorer, Term(text="red"), k=90)
    assert len(read) == 90 and [hit.row for hit in again.hits] == [hit.row for hit in first.hits]
    monkeypatch.setattr(compare, "VECTORS", 10)
    answered(explorer, Term(text="green"), k=90)
    assert len(explorer.customized["gated-image"]._vectors) == 10


def test_a_picture_that_cannot_be_read_is_left_out_and_told(small_run, tmp_path, monkeypatch):
    explorer = Explorer(small_run, cache=tmp_path)
    read = explorer.pictures.read

    def failing(row: int) -> bytes:
        if row == 3:
            raise ReactvlError("gone")
        return b"\xff\xd8\xff no jpeg" if row == 4 else read(row)

    monkeypatch.setattr(explorer.pictures, "read", failing)
    answer = answered(explorer, Term(text="red"), k=90, dedup=False)
    assert {hit.row for hit in answer.hits} == set(range(90)) - {3, 4}
    assert answer.notes == [
        "gated-image ranks the 88 pairs that the base model finds nearest; 2 pictures could not be read and are left out"
    ]
    with pytest.raises(ReactvlError, match="pair 0, 3: its picture cannot be read"):
        answered(explorer, Term(pair=(0, 3)))


def test_what_a_customized_model_cannot_do_is_said(explorer):
    for options, said in (
        ({"keys": "text"}, "ranks pictures: search keys image"),
        ({"keys": "both"}, "ranks pictures"),
    ):
        with pytest.raises(ReactvlError, match=said):
            answered(explorer, Term(text="x"), **options)
    with pytest.raises(ReactvlError, match="a vector is of the base model's"):
        answered(explorer, Term(vector=np.ones(32)))


def test_a_model_that_is_gone_harms_only_those_who_ask_for_it(own_run):
    explorer = Explorer(own_run)
    (own_run / "customized/gated-image/model/open_clip_model.safetensors").unlink()
    good, bad = explorer.answer([Ask((Term(text="x"),)), Ask((Term(text="x"),), model="gated-image")])
    assert good.hits and isinstance(bad, ReactvlError) and "lacks open_clip_model.safetensors" in str(bad)


def test_unfinished_models_are_not_shown(own_run):
    (own_run / "customized/half/model").mkdir(parents=True)
    (own_run / "customized/gated-image/manifest.json").unlink()
    assert Explorer(own_run).info()["models"] == [{"name": "base"}]
