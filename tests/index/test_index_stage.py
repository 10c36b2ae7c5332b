"""The index stage."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

from reactvl.handles.embeddings import Embeddings
from reactvl.handles.index import Index
from reactvl.index import index
from reactvl.manifest import ModelId, ReactvlError, read_manifest, stage_folder
from reactvl.pool.embeddings_format import METADATA_SCHEMA, PartWriter, texts_path
from reactvl.search.exact import top_k

DIM = 16


@pytest.fixture
def vectors():
    """Image and text vectors (400, 16) of pairs about a dozen things."""
    generator = np.random.default_rng(0)
    things = generator.standard_normal((12, DIM))[generator.integers(0, 12, 400)]
    made = [things + 0.8 * generator.standard_normal((400, DIM)) for _ in range(2)]
    return [(rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16) for rows in made]


@pytest.fixture
def embedded(tmp_path):
    """A function that writes an embeddings folder of two parts; the pool behind it is never read here."""

    def write(vectors, *, texts: bool = True, parts: int = 2) -> Embeddings:
        images, captions = vectors
        metadata = pa.Table.from_pylist([{"key": str(row)} for row in range(len(images))], schema=METADATA_SCHEMA)
        edges = np.linspace(0, len(images), parts + 1).astype(int)
        model = ModelId("tiny", "ab" * 32, DIM)
        with stage_folder(tmp_path / "embeddings", "embed", options={}, inputs={}, model=model) as stage:
            for number, (begin, end) in enumerate(itertools.pairwise(edges.tolist())):
                with PartWriter(stage.out, number, end - begin, DIM) as part:
                    part.add(images[begin:end], captions[begin:end], metadata.slice(begin, end - begin))
                if not texts:
                    texts_path(stage.out, number).unlink()
            stage.finish(counts={"pairs": len(images)})
        return Embeddings(tmp_path / "embeddings")

    return write


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_recall_is_reached_and_measured_on_captions(vectors, embedded, tmp_path, kind):
    embeddings = embedded(vectors)
    made = index(embeddings, out=tmp_path / kind, kind=kind, recall=0.95, k=10, queries=100)
    facts = made.manifest.facts
    assert made.recall >= 0.9 and facts["recall_when_tuned"] >= 0.95 and facts["reached"]
    assert facts["queries_from"] == "text" and facts["tuned_queries"] == facts["measured_queries"] == 100
    assert facts["index_bytes"] == (tmp_path / kind / "index.faiss").stat().st_size
    assert "query_ms_median" in (tmp_path / kind / "timing.json").read_text()
    assert len(made) == 400 and made.kind == kind and made.keys == "image"
    asked = vectors[0][[3, 8]].astype(np.float32)
    found = Index(tmp_path / kind).search(asked, 5)
    truth = top_k(asked, [part.images() for part in embeddings.parts], 5)
    assert set(found.row[found.query == 0]) & set(truth.row[truth.query == 0])


def test_captions_as_keys_do_not_find_themselves(vectors, embedded, tmp_path):
    made = index(embedded(vectors), out=tmp_path / "texts", kind="flat", keys="text", k=10, queries=50)
    assert made.recall == 1.0 and made.keys == "text"


def test_without_captions_pictures_ask(vectors, embedded, tmp_path):
    embeddings = embedded(vectors, texts=False)
    made = index(embeddings, out=tmp_path / "out", kind="hnsw", k=10, queries=50)
    assert made.manifest.facts["queries_from"] == "image"
    with pytest.raises(ReactvlError, match="has no text vectors"):
        index(embeddings, out=tmp_path / "text", keys="text")


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_same_bytes_again(vectors, embedded, tmp_path, kind):
    embeddings = embedded(vectors)
    for name in ("a", "b"):
        index(embeddings, out=tmp_path / name, kind=kind, k=10, queries=50)
    assert read_manifest(tmp_path / "a").files == read_manifest(tmp_path / "b").files
    assert read_manifest(tmp_path / "a").facts == read_manifest(tmp_path / "b").facts


def test_unreached_recall_is_said(vectors, embedded, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("reactvl.search.tuning.WIDEST_EF", 1)
    index(embedded(vectors), out=tmp_path / "out", kind="hnsw", recall=1.0, k=1, queries=100)
    assert "not reached" in capsys.readouterr().out


def test_a_tiny_pool(vectors, embedded, tmp_path):
    made = index(embedded([side[:2] for side in vectors], parts=1), out=tmp_path / "out", k=100)
    assert made.recall == 1.0


def test_what_is_refused(vectors, embedded, tmp_path):
    embeddings = embedded(vectors)
    for wrong, words in (
        ({"recall": 1.5}, "recall"),
        ({"k": 0}, "k is 0"),
        ({"queries": 0}, "queries"),
        ({"seed": -1}, "seed"),
    ):
        with pytest.raises(ReactvlError, match=words):
            index(embeddings, out=tmp_path / "out", **wrong)
    index(embeddings, out=tmp_path / "out", kind="flat")
    (tmp_path / "out/index.faiss").unlink()
    with pytest.raises(ReactvlError, match=r"lacks index\.faiss"):
        Index(tmp_path / "out")
