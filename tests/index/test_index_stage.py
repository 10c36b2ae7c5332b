"""The index stage."""

import itertools
import json
import subprocess
import sys

import faiss
import numpy as np
import pyarrow as pa
import pytest

import reactvl
from reactvl.handles.embeddings import Embeddings
from reactvl.handles.index import Index
from reactvl.index import index
from reactvl.manifest import ModelId, ReactvlError, changed_files, input_id, read_manifest, stage_folder
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

    def write(
        vectors, *, texts: bool = True, parts: int = 2, name: str = "embeddings", weights="ab" * 32
    ) -> Embeddings:
        images, captions = vectors
        metadata = pa.Table.from_pylist([{"key": str(row)} for row in range(len(images))], schema=METADATA_SCHEMA)
        edges = np.linspace(0, len(images), parts + 1).astype(int)
        model = ModelId("tiny", weights, DIM)
        with stage_folder(tmp_path / name, "embed", options={}, inputs={}, model=model) as stage:
            for number, (begin, end) in enumerate(itertools.pairwise(edges.tolist())):
                with PartWriter(stage.out, number, end - begin, DIM) as part:
                    part.add(images[begin:end], captions[begin:end], metadata.slice(begin, end - begin))
                if not texts:
                    texts_path(stage.out, number).unlink()
            stage.finish(counts={"pairs": len(images)})
        return Embeddings(tmp_path / name)

    return write


@pytest.mark.parametrize("kind", ["flat", "ivf-flat", "ivf-sq8", "hnsw", "IVF8,SQ4", "PCA8,IVF8,SQ8"])
def test_recall_is_reached_and_measured_on_captions(vectors, embedded, tmp_path, kind):
    embeddings = embedded(vectors)
    made = index(embeddings, out=tmp_path / "out", kind=kind, recall=0.9, k=20, queries=100)
    facts, measured = made.manifest.facts, made.manifest.measured
    assert made.recall >= 0.88
    assert facts["recall_when_tuned"] >= 0.9
    assert facts["reached"]
    assert list(facts["recall_at"]) == list(facts["recall_interval"]) == ["1", "10", "20"]
    assert made.recall_at[20] == made.recall
    for depth, (low, high) in facts["recall_interval"].items():
        assert low <= facts["recall_at"][depth] <= high
    assert facts["queries_from"] == "captions"
    assert facts["tuned_queries"] == facts["measured_queries"] == 100
    assert facts["index_bytes"] == (tmp_path / "out" / "index.faiss").stat().st_size
    assert {"build_seconds", "p50_ms", "p99_ms", "qps", "threads"} <= set(measured)
    assert made.qps == measured["qps"]
    assert len(made) == 400
    assert made.kind == kind
    assert made.keys == "image"
    asked = vectors[0][[3, 8]].astype(np.float32)
    found = reactvl.open(tmp_path / "out").search(asked, 5)
    truth = top_k(asked, [part.images() for part in embeddings.parts], 5)
    assert set(found.row[found.query == 0]) & set(truth.row[truth.query == 0])


def test_auto_is_flat_for_few_rows_and_says_why(vectors, embedded, tmp_path, capsys):
    made = index(embedded(vectors), out=tmp_path / "out", k=20, queries=50)
    assert made.kind == "flat"
    assert made.recall == 1.0
    assert "every row is compared" in capsys.readouterr().out


def test_captions_as_keys_do_not_find_themselves(vectors, embedded, tmp_path):
    made = index(embedded(vectors), out=tmp_path / "texts", kind="flat", keys="text", k=10, queries=50)
    assert made.recall == 1.0
    assert made.keys == "text"


def test_without_captions_pictures_ask(vectors, embedded, tmp_path):
    embeddings = embedded(vectors, texts=False)
    made = index(embeddings, out=tmp_path / "out", kind="hnsw", k=10, queries=50)
    assert made.manifest.facts["queries_from"] == "images"
    with pytest.raises(ReactvlError, match="has no text vectors"):
        index(embeddings, out=tmp_path / "text", keys="text")


@pytest.mark.parametrize("kind", ["flat", "ivf-flat", "ivf-sq8", "hnsw"])
def test_same_bytes_again_and_the_same_input(vectors, embedded, tmp_path, kind):
    """Wall-clock figures differ, the index and what it is as an input do not."""
    embeddings = embedded(vectors)
    for name in ("a", "b"):
        index(embeddings, out=tmp_path / name, kind=kind, k=10, queries=50)
    one, two = (read_manifest(tmp_path / name) for name in ("a", "b"))
    assert one.files == two.files
    assert one.facts == two.facts
    assert one.measured.keys() == two.measured.keys()
    assert input_id(tmp_path / "a", tmp_path).sha256 == input_id(tmp_path / "b", tmp_path).sha256
    assert (tmp_path / "a/manifest.json").read_bytes() != (tmp_path / "b/manifest.json").read_bytes()


def test_a_manifest_without_measured_figures_is_its_file(tmp_path):
    """The identity of other stages' folders is what it was: the hash of the file."""
    import hashlib

    for name, measured in (("plain", None), ("timed", {"qps": 12.5})):
        with stage_folder(tmp_path / name, "embed", options={"a": 1}, inputs={}) as stage:
            stage.finish(counts={"é": 2}, facts={"share": 0.1}, measured=measured)
    plain = (tmp_path / "plain/manifest.json").read_bytes()
    assert b"measured" not in plain
    wanted = hashlib.sha256(plain).hexdigest()
    assert [input_id(tmp_path / name, tmp_path).sha256 for name in ("plain", "timed")] == [wanted, wanted]
    assert read_manifest(tmp_path / "timed").measured == {"qps": 12.5}


@pytest.mark.parametrize("where", ["add", "tuned"])
def test_a_stopped_build_goes_on_and_ends_in_the_same_bytes(vectors, embedded, tmp_path, monkeypatch, where):
    """Stopped after training, and after filling: neither is done twice."""
    embeddings = embedded(vectors)
    options = {"kind": "ivf-sq8", "k": 10, "queries": 50}
    whole = index(embeddings, out=tmp_path / "whole", **options)

    def stopped(*_, **__):
        raise KeyboardInterrupt

    module = sys.modules["reactvl.search.building" if where == "add" else "reactvl.index.run"]
    with monkeypatch.context() as patched:
        patched.setattr(module, where, stopped)
        with pytest.raises(KeyboardInterrupt):
            index(embeddings, out=tmp_path / "stopped", **options)
    assert not (tmp_path / "stopped/manifest.json").exists()
    with monkeypatch.context() as patched:
        patched.setattr("reactvl.search.building.trained", stopped)
        if where == "tuned":
            patched.setattr("reactvl.search.building.add", stopped)
        done = index(embeddings, out=tmp_path / "stopped", **options)
    assert done.manifest.files == whole.manifest.files
    assert done.manifest.facts == whole.manifest.facts


def test_unreached_recall_is_said(vectors, embedded, tmp_path, capsys):
    made = index(embedded(vectors), out=tmp_path / "out", kind="ivf-sq8", recall=1.0, k=50, queries=100, nprobe=1)
    assert not made.manifest.facts["reached"]
    assert "not reached" in capsys.readouterr().out


def test_a_tiny_pool(vectors, embedded, tmp_path):
    for kind in ("auto", "ivf-sq8", "hnsw"):
        made = index(
            embedded([side[:2] for side in vectors], parts=1, name=f"{kind}-emb"), out=tmp_path / kind, kind=kind
        )
        assert made.recall == 1.0


def test_overrides_of_the_stage_and_of_a_search(vectors, embedded, tmp_path):
    embeddings = embedded(vectors)
    made = index(embeddings, out=tmp_path / "lists", kind="ivf-sq8", k=50, queries=50, nprobe=2, refine=1.5)
    facts = made.manifest.facts
    assert (facts["setting"], facts["setting_value"], facts["refine"]) == ("nprobe", 2, 1.5)
    assert faiss.read_index(str(tmp_path / "lists/index.faiss")).nprobe == 2
    asked = vectors[1][:40].astype(np.float32)
    parts = [part.images() for part in embeddings.parts]
    exact = top_k(asked, parts, 20)
    wide = made.search(asked, 20, nprobe=10_000, refine=20)
    assert np.array_equal(wide.row, exact.row)
    assert np.array_equal(wide.score, exact.score)
    narrow = made.search(asked, 20, nprobe=1)
    assert len(set(zip(narrow.query.tolist(), narrow.row.tolist(), strict=True))) <= len(wide)
    with pytest.raises(ReactvlError, match="has no efSearch; its width is nprobe"):
        made.search(asked, 5, ef_search=9)
    with pytest.raises(ReactvlError, match="nprobe is 0"):
        made.search(asked, 5, nprobe=0)
    with pytest.raises(ReactvlError, match="has no nprobe"):
        index(embeddings, out=tmp_path / "graph", kind="hnsw", k=10, queries=50, nprobe=4)
    graph = index(embeddings, out=tmp_path / "graph", kind="hnsw", k=10, queries=50, ef_search=33)
    assert graph.manifest.facts["setting_value"] == 33
    with pytest.raises(ReactvlError, match="it compares every row"):
        index(embeddings, out=tmp_path / "flat", kind="flat", k=10, queries=50).search(asked, 5, nprobe=3)


def test_range_search_is_numpys(vectors, embedded, tmp_path):
    made = index(embedded(vectors), out=tmp_path / "out", kind="ivf-sq8", k=20, queries=50)
    asked = vectors[1][:9].astype(np.float32)
    scores = asked.astype(np.float64) @ vectors[0].astype(np.float64).T
    falling = np.sort(scores.ravel())[::-1]
    threshold = float(falling[300:302].mean())
    found = made.above(asked, threshold, nprobe=10_000)
    wanted = set(zip(*(places.tolist() for places in np.nonzero(scores >= threshold)), strict=True))
    assert set(zip(found.query.tolist(), found.row.tolist(), strict=True)) == wanted
    one = made.above(asked[0], threshold, nprobe=10_000)
    assert np.array_equal(one.row, found.row[found.query == 0])


def test_deeper_searches_widen(vectors, embedded, tmp_path):
    made = index(embedded(vectors), out=tmp_path / "out", kind="ivf-sq8", k=10, recall=0.8, queries=50)
    asked = vectors[1][:60].astype(np.float32)
    tuned = made.manifest.facts["setting_value"]
    deep = made.search(asked, 200)
    as_set = made.search(asked, 200, nprobe=tuned)
    assert len(deep) >= len(as_set)
    assert np.array_equal(deep.row, made.search(asked, 200, nprobe=20 * tuned).row)


def test_an_index_grows_with_its_embeddings(vectors, embedded, tmp_path):
    first = embedded([side[:250] for side in vectors], parts=1, name="early")
    later = embedded(vectors, parts=3, name="later")
    options = {"kind": "ivf-sq8", "k": 10, "queries": 50}
    base = index(first, out=tmp_path / "base", **options)
    grown = index(later, add=tmp_path / "base", out=tmp_path / "grown", k=10, queries=50)
    assert len(grown) == 400
    assert grown.kind == "ivf-sq8"
    assert grown.manifest.facts["grown"] == [250]
    assert grown.manifest.facts["trained_sha256"] == base.manifest.facts["trained_sha256"]
    asked = vectors[1][:30].astype(np.float32)
    found = grown.search(asked, 10, nprobe=10_000, refine=20)
    assert np.array_equal(found.row, top_k(asked, [vectors[0]], 10).row)
    # content: the rows of a whole build with the same training
    whole = faiss.read_index(str(tmp_path / "base/index.faiss"))
    whole.add(vectors[0][250:].astype(np.float32))
    here = faiss.read_index(str(tmp_path / "grown/index.faiss"))
    whole.nprobe = here.nprobe
    assert np.array_equal(faiss.serialize_index(whole), faiss.serialize_index(here))
    with pytest.raises(ReactvlError, match="indexes other vectors than rows 0 to 250"):
        index(embedded([side[::-1] for side in vectors], name="turned"), add=tmp_path / "base", out=tmp_path / "x")


@pytest.mark.parametrize("kind", ["ivf-sq8", "flat"])
def test_chunks_merge_into_the_index_of_one_go(vectors, embedded, tmp_path, kind):
    embeddings = embedded(vectors)
    options = {"k": 10, "queries": 50, "recall": 0.9}
    whole = index(embeddings, out=tmp_path / "whole", kind=kind, **options)
    for number in (1, 2, 3):
        assert index(embeddings, out=tmp_path / f"c{number}", kind=kind, chunk=f"{number}/3", **options) is None
    with pytest.raises(ReactvlError, match=r"holds chunk 2/3 of an index; join"):
        Index(tmp_path / "c2", embeddings)
    homes = [tmp_path / f"c{number}" for number in (3, 1, 2)]
    merged = index(embeddings, merge=homes, out=tmp_path / "merged", **options)
    assert merged.manifest.files == whole.manifest.files
    assert merged.recall_at == whole.recall_at
    with pytest.raises(ReactvlError, match="are in none of the indexes"):
        index(embeddings, merge=homes[1:], out=tmp_path / "less", **options)
    if kind == "ivf-sq8":
        index(embeddings, out=tmp_path / "other", kind=kind, chunk="3/3", seed=9, **options)
        with pytest.raises(ReactvlError, match="was trained otherwise"):
            index(embeddings, merge=[*homes[1:], tmp_path / "other"], out=tmp_path / "mixed", **options)
    with pytest.raises(ReactvlError, match="cannot be merged"):
        index(embeddings, out=tmp_path / "graph", kind="hnsw", chunk="1/2")


def test_a_foreign_file_is_used_and_adopted(vectors, embedded, tmp_path):
    """As autofaiss leaves it: nprobe 1."""
    embeddings = embedded(vectors)
    foreign = faiss.index_factory(DIM, "IVF16,Flat", faiss.METRIC_INNER_PRODUCT)
    foreign.train(vectors[0].astype(np.float32))
    foreign.add(vectors[0].astype(np.float32))
    faiss.write_index(foreign, str(tmp_path / "image.index"))
    asked = vectors[1][:50].astype(np.float32)
    found = Index.of_file(tmp_path / "image.index", embeddings, "image")
    truth = top_k(asked, [vectors[0]], 10)
    assert (found.search(asked, 10).score == truth.score).mean() > 0.9
    assert found.recall >= 0.95
    assert found.qps > 0
    assert found.facts["setting_value"] > 1
    assert found.kind == "IndexIVFFlat"
    assert (
        found.identity(tmp_path).sha256 == Index.of_file(tmp_path / "image.index", embeddings).identity(tmp_path).sha256
    )
    narrow = Index.of_file(tmp_path / "image.index", embeddings, nprobe=1)
    assert len(narrow.search(asked, 200)) < len(found.search(asked, 200))
    adopted = index(embeddings, file=tmp_path / "image.index", out=tmp_path / "adopted", k=10, queries=50, recall=0.9)
    assert adopted.recall >= 0.88
    assert adopted.manifest.facts["setting_value"] > 1
    with pytest.raises(ReactvlError, match=r"image\.index: the index holds 400 rows, the embeddings 100"):
        Index.of_file(tmp_path / "image.index", embedded([side[:100] for side in vectors], name="few"))
    with pytest.raises(ReactvlError, match="has no efSearch"):
        Index.of_file(tmp_path / "image.index", embeddings, ef_search=8)


def test_another_model_is_refused(vectors, embedded, tmp_path):
    made = index(embedded(vectors), out=tmp_path / "out", kind="flat", k=10, queries=50)
    asked = vectors[1][:2].astype(np.float32)
    assert len(made.search(asked, 3, model=made.embeddings.model)) == 6
    other = ModelId("other", "cd" * 32, DIM)
    with pytest.raises(ReactvlError, match=r"is an index of vectors of tiny .* the queries are of other"):
        made.search(asked, 3, model=other)
    with pytest.raises(ReactvlError, match="whose vectors mean other things"):
        made.above(asked, 0.3, model=other)
    with pytest.raises(ReactvlError, match="is an index of vectors of tiny"):
        Index(tmp_path / "out", embedded(vectors, name="theirs", weights="cd" * 32))
    turned = embedded([side[::-1] for side in vectors], name="turned")
    with pytest.raises(ReactvlError, match="is an index of other embeddings"):
        Index(tmp_path / "out", turned)


def test_prompts_tune_and_other_classes_measure(vectors, embedded, tmp_path, monkeypatch):
    """The prompts that tune and those that measure are of different classes, and only they are encoded."""
    asked = []

    class Standing:
        def __init__(self, model, *, device):
            pass

        def texts(self, texts):
            asked.extend(texts)
            rows = np.random.default_rng(0).standard_normal((len(texts), DIM)).astype(np.float32)
            return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    class Model:
        id = ModelId("tiny", "ab" * 32, DIM)

    monkeypatch.setattr("reactvl.models.encoder.Encoder", Standing)
    embeddings = embedded(vectors)
    classes = [f"thing {number}|object {number}" for number in range(20)]
    asking = {"classes": classes, "templates": ["a {}", "the {}"], "model": Model()}
    made = index(embeddings, out=tmp_path / "out", kind="ivf-sq8", k=10, queries=30, recall=0.8, **asking)
    facts = made.manifest.facts
    assert facts["queries_from"] == "prompts"
    assert facts["tuned_queries"] == facts["measured_queries"] == 30
    assert len(asked) == 60
    assert {prompt.split()[-2] for prompt in asked} == {"thing", "object"}

    class Other:
        id = ModelId("other", "cd" * 32, DIM)

    with pytest.raises(ReactvlError, match="is not the model other"):
        index(embeddings, out=tmp_path / "x", classes=classes, model=Other())


def test_an_impossible_budget_says_what_is_possible(vectors, embedded, tmp_path):
    with pytest.raises(
        ReactvlError, match=r"over the 1\.0 kB of --memory .* possible are .*ivf-sq8 .*give more memory"
    ):
        index(embedded(vectors), out=tmp_path / "out", memory="1kB")
    assert not (tmp_path / "out").exists()


def test_what_is_refused(vectors, embedded, tmp_path):
    embeddings = embedded(vectors)
    for wrong, words in (
        ({"recall": 1.5}, "recall"),
        ({"k": 0}, "k is 0"),
        ({"queries": 0}, "queries"),
        ({"seed": -1}, "seed"),
        ({"refine": 0.5}, "refine is 0.5"),
        ({"nprobe": 1, "ef_search": 2}, "give one"),
        ({"kind": "ivf"}, "FAISS makes no such index"),
        ({"memory": "lots"}, "is no size"),
        ({"chunk": "4/3"}, "wanted I/N"),
        ({"chunk": "1/1000"}, "only 400 rows"),
        ({"chunk": "1/2", "merge": ["a"]}, "two ways"),
        ({"templates": ["a {}"]}, "needs classes"),
        ({"classes": ["a"], "tasks": ["food-101"]}, "give one"),
        ({"tasks": ["food-102"]}, "food-101"),
        ({"file": tmp_path / "gone"}, "no such index file"),
        ({"add": tmp_path / "gone"}, "no stage's output"),
    ):
        with pytest.raises(ReactvlError, match=words):
            index(embeddings, out=tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()
    index(embeddings, out=tmp_path / "out", kind="flat")
    (tmp_path / "out/index.faiss").unlink()
    with pytest.raises(ReactvlError, match=r"lacks index\.faiss"):
        Index(tmp_path / "out")


def test_the_command(vectors, embedded, tmp_path):
    """Typed as users type it: an index, its verification, and an error of one line."""
    embedded(vectors)

    def typed(*args):
        return subprocess.run([sys.executable, "-m", "reactvl", *map(str, args)], capture_output=True, text=True)

    home = tmp_path / "embeddings"
    done = typed(
        "index",
        home,
        "--kind",
        "IVF8,SQ8",
        "--memory",
        "1MB",
        "--recall",
        "0.9",
        "--k",
        "10",
        "--queries",
        "50",
        "--out",
        tmp_path / "out",
    )
    assert done.returncode == 0, done.stderr
    assert "recall@10" in done.stdout
    assert json.loads((tmp_path / "out/manifest.json").read_text())["facts"]["factory"] == "IVF8,SQ8"
    assert changed_files(tmp_path / "out") == []
    done = typed("index", home, "--memory", "1kB", "--out", tmp_path / "small")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "possible are" in done.stderr
