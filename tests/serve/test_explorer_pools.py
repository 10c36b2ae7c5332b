"""The engine over pools as they are found: published, of several parts, half missing, damaged, indexed by others."""

import json
import os

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from explorer_support import nearest, random_rows, urls, write_published

import reactvl as rv
from reactvl.manifest import ReactvlError
from reactvl.serve.asking import Answer, Ask, Term
from reactvl.serve.explorer import Explorer


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def one(explorer: Explorer, *terms: Term, **options) -> Answer:
    [answer] = explorer.answer([Ask(terms, **options)])
    if isinstance(answer, ReactvlError):
        raise answer
    return answer


def pairs(answer: Answer) -> list[tuple[int, int]]:
    return [(hit.part, hit.row) for hit in answer.hits]


def test_published_parts_keep_their_numbers_and_an_empty_one_is_no_harm(small_model, tmp_path):
    sizes = {3: 70, 5: 0, 11: 150, 12: 1}
    every = random_rows(sum(sizes.values()), seed=1)
    texts = random_rows(len(every), seed=2)
    first, parts, place = 0, [], []
    for number, rows in sizes.items():
        here = slice(first, first + rows)
        columns = (
            urls(rows, first) if rows else {"url": pa.array([], pa.string()), "caption": pa.array([], pa.string())}
        )
        parts.append((number, every[here], texts[here], columns))
        place += [(number, row) for row in range(rows)]
        first += rows
    explorer = Explorer(write_published(tmp_path / "pool", parts), model=small_model)
    query = random_rows(1, seed=9, dtype="float32")[0]
    for keys, matrix in (("image", every), ("text", texts)):
        found, scores = nearest(matrix, query, 60)
        answer = one(explorer, Term(vector=query), k=60, keys=keys)
        assert pairs(answer) == [place[row] for row in found]
        np.testing.assert_allclose([hit.similarity for hit in answer.hits], scores, atol=1e-6)
        assert [hit.url for hit in answer.hits] == [f"https://example.org/{row}.jpg" for row in found]
        assert [hit.caption for hit in answer.hits] == [f"caption {row}" for row in found]
    assert explorer.pair(12, 0)["url"] == "https://example.org/220.jpg"
    for part, row, said in ((5, 0, "part 5 has 0 rows"), (4, 0, "no part 4; the parts are 3, 5, 11, 12")):
        with pytest.raises(ReactvlError, match=said):
            explorer.pair(part, row)
    with pytest.raises(ReactvlError, match="but no pictures"):
        explorer.picture(3, 0)
    assert not explorer.info()["pictures"] and explorer.info()["columns"] == ["caption", "url"]
    assert (tmp_path / "cache/reactvl/serve").is_dir()


def test_published_embeddings_need_their_model(small_model, tmp_path):
    folder = write_published(tmp_path / "pool", [(0, random_rows(5), None, urls(5))])
    with pytest.raises(ReactvlError, match="do not say which model made them; pass --model"):
        Explorer(folder)
    other = write_published(tmp_path / "wide", [(0, random_rows(5, dim=64), None, urls(5))])
    with pytest.raises(ReactvlError, match="of shape"):
        Explorer(other, model=small_model)


def test_a_side_that_parts_lack_is_searched_where_it_is(small_model, tmp_path):
    images, texts = random_rows(90, seed=3), random_rows(90, seed=4)
    folder = write_published(
        tmp_path / "pool",
        [
            (0, images[:30], None, urls(30)),
            (1, None, texts[30:60], urls(30, 30)),
            (2, images[60:], texts[60:], urls(30, 60)),
        ],
    )
    explorer = Explorer(folder, model=small_model)
    query = random_rows(1, seed=9, dtype="float32")[0]
    shown, told = np.full((90, 32), np.nan), np.full((90, 32), np.nan)
    shown[:30], shown[60:], told[30:] = images[:30], images[60:], texts[30:]
    for keys, matrix in (("image", shown), ("text", told)):
        answer = one(explorer, Term(vector=query), k=90, keys=keys)
        found, scores = nearest(matrix, query, 90)
        assert [30 * hit.part + hit.row for hit in answer.hits] == found
        np.testing.assert_allclose([hit.similarity for hit in answer.hits], scores, atol=1e-6)
    z = [
        (matrix @ query - (held := matrix[np.isfinite(matrix[:, 0])] @ query).mean()) / held.std()
        for matrix in (shown, told)
    ]
    z = np.where(np.isnan(z), -np.inf, z)
    joint = np.where((z > 0).any(axis=0), np.hypot(*np.maximum(z, 0)), z.max(axis=0))
    answer = one(explorer, Term(vector=query), k=90, keys="both")
    assert [30 * hit.part + hit.row for hit in answer.hits] == np.argsort(-joint, kind="stable").tolist()
    assert {hit.part for hit in answer.hits if hit.similarity is None} == {1}
    assert {hit.part for hit in answer.hits if hit.text_similarity is None} == {0}
    # a pair asks with its own vector of the side, or with the one that it has
    picture = one(explorer, Term(pair=(0, 4)), keys="text", k=5)
    assert [30 * hit.part + hit.row for hit in picture.hits] == nearest(told, images[4].astype(np.float64), 5)[0]


def test_a_pool_of_one_side_says_so(small_model, tmp_path):
    folder = write_published(tmp_path / "pool", [(0, None, random_rows(20), urls(20))])
    explorer = Explorer(folder, model=small_model)
    assert list(explorer.info()["sides"]) == ["text"]
    for keys in ("image", "both"):
        with pytest.raises(ReactvlError, match="have no image vectors; search keys text"):
            one(explorer, Term(text="x"), keys=keys)
    assert len(one(explorer, Term(text="x"), keys="text").hits) == 20


def test_rows_that_are_not_finite_are_never_found_nor_counted(small_model, tmp_path):
    images = random_rows(300, seed=5)
    images[[0, 7, 150]] = np.nan
    images[200, 3] = np.inf
    texts = random_rows(300, seed=6)
    folder = write_published(tmp_path / "pool", [(0, images, texts, urls(300))])
    explorer = Explorer(folder, model=small_model)
    query = random_rows(1, seed=9, dtype="float32")[0]
    answer = one(explorer, Term(vector=query), k=1000)
    assert [hit.row for hit in answer.hits] == nearest(np.where(np.isfinite(images), images, np.nan), query, 300)[0]
    counted = explorer.count(Ask((Term(vector=query),)), [-2.0])
    assert counted.pairs == sum(counted.counts) == counted.above[0].count == 296
    # such a pair asks with its caption
    assert one(explorer, Term(pair=(0, 7)), keys="text", k=1).hits[0].row == 7
    answer = one(explorer, Term(vector=query), keys="both", k=300)
    assert len(answer.hits) == 300 and {hit.row for hit in answer.hits if hit.similarity is None} == {0, 7, 150, 200}


def test_an_empty_pool_answers_with_nothing(small_model, tmp_path):
    none = {"url": pa.array([], pa.string()), "caption": pa.array([], pa.string())}
    folder = write_published(tmp_path / "pool", [(0, random_rows(0), random_rows(0), none)])
    explorer = Explorer(folder, model=small_model)
    for keys in ("image", "text", "both"):
        assert one(explorer, Term(text="x"), keys=keys, caption="x").hits == []
    assert explorer.count(Ask((Term(text="x"),)), [0.1]).above[0].count == 0


def test_copies_of_published_pairs_are_told_by_hash_and_url(small_model, tmp_path):
    images = random_rows(64, seed=8)
    digests = [f"{row % 40:064x}" for row in range(64)]  # hex, as img2dataset writes it
    digests[0], digests[1] = "no hash", ""
    columns = urls(64) | {"sha256": digests}
    columns["url"][50] = columns["url"][51] = "https://example.org/same.jpg"
    columns["url"][60] = columns["url"][61] = None
    folder = write_published(tmp_path / "pool", [(0, images, None, columns)])
    explorer = Explorer(folder, model=small_model)
    query = random_rows(1, seed=9, dtype="float32")[0]
    order = nearest(images, query, 64)[0]
    kept, sums, links = [], set(), set()
    for row in order:
        digest, url = digests[row] if len(digests[row]) == 64 else None, columns["url"][row]
        if (digest and digest in sums) or (url and url in links):
            continue
        kept.append(row)
        sums.add(digest)
        links.add(url)
    assert [hit.row for hit in one(explorer, Term(vector=query), k=64).hits] == kept
    assert len(kept) < 45


def test_near_copies_are_dropped_as_a_plain_loop_drops_them():
    from reactvl.serve.sifting import Kept

    generator = np.random.default_rng(0)
    hearts = generator.integers(0, 1 << 64, 40, dtype=np.uint64)
    hashes = hearts[generator.integers(0, 40, 700)]
    for _ in range(4):  # up to four bits from the heart, up to eight from each other
        hashes ^= np.uint64(1) << generator.integers(0, 64, 700).astype(np.uint64) * generator.integers(
            0, 2, 700
        ).astype(np.uint64)
    hashes[generator.integers(0, 700, 60)] = 0b111  # of flat pictures: says nothing
    sums = [b"%032d" % value for value in generator.integers(0, 600, 700)]
    kept = []
    for row in range(700):
        copy = any(
            sums[row] == sums[other]
            or (
                (int(hashes[row]) ^ int(hashes[other])).bit_count() <= 4
                and min(int(hashes[row]).bit_count(), int(hashes[other]).bit_count()) >= 12
            )
            for other in kept
        )
        if not copy:
            kept.append(row)
    found, none = Kept(), [None] * 700
    for first in range(0, 700, 90):
        here = slice(first, first + 90)
        found.add(np.arange(700)[here], sums[here], none[here], hashes[here], 10_000)
    assert found.places == kept


def test_a_search_goes_deeper_until_it_has_enough(small_model, tmp_path):
    images = random_rows(4000, seed=8)
    query = random_rows(1, seed=9, dtype="float32")[0]
    order = nearest(images, query, 4000)[0]
    columns = urls(4000)
    for row in order[:3000]:
        columns["url"][row] = "https://example.org/everywhere.jpg"
        columns["caption"][row] = None
    first, second = ({name: each[here] for name, each in columns.items()} for here in (slice(1500), slice(1500, None)))
    folder = write_published(tmp_path / "pool", [(0, images[:1500], None, first), (1, images[1500:], None, second)])
    explorer = Explorer(folder, model=small_model)
    wanted = [order[0], *order[3000:3019]]
    assert [1500 * hit.part + hit.row for hit in one(explorer, Term(vector=query), k=20).hits] == wanted
    answer = one(explorer, Term(vector=query), k=20, caption="CAPTION")
    assert [1500 * hit.part + hit.row for hit in answer.hits] == order[3000:3020] and answer.examined >= 3020
    assert answer.notes == []


def test_only_the_best_ten_thousand_are_looked_at(small_model, tmp_path):
    images = random_rows(12_000, seed=8)
    query = random_rows(1, seed=9, dtype="float32")[0]
    order = nearest(images, query, 12_000)[0]
    columns = urls(12_000)
    columns["caption"][order[9_999]] = columns["caption"][order[10_001]] = "a needle"
    texts = random_rows(12_000, seed=7)
    explorer = Explorer(write_published(tmp_path / "pool", [(0, images, texts, columns)]), model=small_model)
    answer = one(explorer, Term(vector=query), caption="needle")
    assert [hit.row for hit in answer.hits] == [order[9_999]]
    assert answer.examined == 10_000 and answer.notes == ["only the 10,000 best pairs were looked at"]
    least = float(images[order[30]].astype(np.float64) @ query)
    answer = one(explorer, Term(vector=query), keys="both", min_similarity=least, dedup=False)
    assert 0 < len(answer.hits) <= 31 and {hit.row for hit in answer.hits} <= set(order[:31])


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A pool of 6,000 pairs in two parts, and queries for it."""
    home = tmp_path_factory.mktemp("large")
    generator = np.random.default_rng(3)
    hearts = generator.standard_normal((60, 32))
    drawn = (
        hearts[generator.integers(0, 60, 6200)]
        + 0.7 * generator.standard_normal((6200, 32))
        + generator.standard_normal(32)
    )
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    images = drawn[:6000].astype(np.float16)
    texts = (drawn[:6000] + 0.1 * generator.standard_normal((6000, 32))).astype(np.float32)
    texts = (texts / np.linalg.norm(texts, axis=1, keepdims=True)).astype(np.float16)
    parts = [(0, images[:3500], texts[:3500], urls(3500)), (1, images[3500:], texts[3500:], urls(2500, 3500))]
    return write_published(home / "pool", parts), images, drawn[6000:].astype(np.float32)


def test_a_foreign_faiss_file_answers_with_the_scores_of_the_vectors(large, small_model, tmp_path):
    folder, images, queries = large
    index = faiss.index_factory(32, "IVF32,SQ8", faiss.METRIC_INNER_PRODUCT)
    index.train(images.astype(np.float32))
    index.add(images.astype(np.float32))
    faiss.write_index(index, str(tmp_path / "image.index"))
    explorer = Explorer(folder, model=small_model, index=[tmp_path / "image.index"])
    sides = explorer.info()["sides"]
    assert sides["image"]["engine"] == "IndexIVFScalarQuantizer" and sides["image"]["recall"] > 0.97
    assert sides["text"]["engine"] == "exact"
    answers = explorer.answer([Ask((Term(vector=query),), k=50, dedup=False) for query in queries])
    hit = 0
    for query, answer in zip(queries, answers, strict=True):
        found = [3500 * one.part + one.row for one in answer.hits]
        assert not answer.exact and answer.recall == sides["image"]["recall"]
        np.testing.assert_allclose(
            [one.similarity for one in answer.hits], images[found].astype(np.float64) @ query, atol=1e-6
        )
        hit += len(set(found) & set(nearest(images, query, 50)[0]))
    assert hit / (50 * len(queries)) > 0.95
    assert one(explorer, Term(vector=queries[0]), keys="text").exact
    # the folder that clip-retrieval keeps both in
    assert Explorer(folder, model=small_model, index=[tmp_path]).info()["sides"]["image"]["engine"] != "exact"


def test_an_index_that_does_not_fit_is_refused(large, small_model, tmp_path):
    folder, images, _ = large
    for name, rows in (("few.index", images[:100]), ("wide.index", np.ones((6000, 8), np.float16))):
        index = faiss.IndexFlatIP(rows.shape[1])
        index.add(rows.astype(np.float32))
        faiss.write_index(index, str(tmp_path / name))
        with pytest.raises(ReactvlError, match=f"{name}: the index"):
            Explorer(folder, model=small_model, index=[tmp_path / name])
    (tmp_path / "broken.index").write_bytes(b"IxFI" + bytes(40))
    with pytest.raises(ReactvlError, match=r"broken.index"):
        Explorer(folder, model=small_model, index=[tmp_path / "broken.index"])
    with pytest.raises(ReactvlError, match="neither an index folder nor a FAISS file"):
        Explorer(folder, model=small_model, index=[tmp_path / "none"])
    index = faiss.IndexFlatIP(32)
    index.add(images.astype(np.float32))
    for name in ("image_a.index", "image_b.index"):
        faiss.write_index(index, str(tmp_path / name))
    with pytest.raises(ReactvlError, match="holds image vectors, and so does"):
        Explorer(folder, model=small_model, index=[tmp_path / "image_a.index", tmp_path / "image_b.index"])


def test_a_runs_own_index_is_used_where_it_belongs_to_the_embeddings(own_run, capsys):
    rv.index(own_run / "embeddings", kind="flat", out=own_run / "index")
    explorer = Explorer(own_run)
    assert explorer.info()["sides"] == {
        "image": {"engine": "flat", "recall": 1.0},
        "text": {"engine": "exact", "recall": None},
    }
    query = Term(text="a thing")
    found, exact = one(explorer, query, k=30), Explorer(own_run)
    exact.sides["image"].index = None
    assert pairs(found) == pairs(one(exact, query, k=30)) and not found.exact and found.recall == 1.0
    said = json.loads((own_run / "index/manifest.json").read_text())
    said["inputs"]["embeddings"]["sha256"] = "0" * 64
    (own_run / "index/manifest.json").write_text(json.dumps(said))
    assert Explorer(own_run).info()["sides"]["image"]["engine"] == "exact"
    assert "searches exactly, for" in capsys.readouterr().out
    with pytest.raises(ReactvlError, match="of other embeddings"):
        Explorer(own_run, index=[own_run / "index"])


def test_an_indexed_page_is_as_deep_as_asked(large, small_model, tmp_path):
    folder, images, queries = large
    index = faiss.index_factory(32, "IVF32,Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(images.astype(np.float32))
    index.add(images.astype(np.float32))
    faiss.write_index(index, str(tmp_path / "image.index"))
    explorer = Explorer(folder, model=small_model, index=[tmp_path / "image.index"])
    answer = one(explorer, Term(vector=queries[0]), k=10**9, dedup=False)
    assert len(answer.hits) == 6000
    assert len(one(explorer, Term(vector=queries[0]), k=40, offset=5990, dedup=False).hits) == 10
    assert one(explorer, Term(vector=queries[0]), k=40, offset=10**9).hits == []


def test_a_run_that_cannot_be_written_keeps_its_metadata_elsewhere(own_run, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    explorer = Explorer(own_run)
    assert not (own_run / "serve").exists() and list((tmp_path / "cache/reactvl/serve").iterdir())
    assert explorer.pair(0, 0)["key"] == "000000000"


def test_a_row_of_pandas_types_is_read(small_model, tmp_path):
    columns = {
        "image_path": ["a", "b"],
        "TEXT": [b"bytes \xff", b"more"],
        "WIDTH": [640.0, float("nan")],
        "sha256": ["00" * 32, None],
        "NSFW": pa.array(["UNLIKELY", "NSFW"]).dictionary_encode(),
        "scores": [[0.5, None], None],
        "about": [{"x": float("inf")}, None],
        "at": pa.array([0, 1], pa.timestamp("s")),
    }
    explorer = Explorer(write_published(tmp_path / "pool", [(0, random_rows(2), None, columns)]), model=small_model)
    first, second = explorer.pair(0, 0), explorer.pair(0, 1)
    assert first == {
        "part": 0, "row": 0, "class_ids": [], "key": "a", "caption": "bytes \ufffd", "sha256": "00" * 32, "width": 640,
        "NSFW": "UNLIKELY", "scores": [0.5, None], "about": {"x": None}, "at": "1970-01-01 00:00:00",
    }  # fmt: skip
    assert second["width"] is None and second["sha256"] is None and second["NSFW"] == "NSFW"
    json.dumps([first, second, explorer.info()], allow_nan=False)
    [hit] = one(explorer, Term(pair=(0, 1)), k=1).hits
    assert hit.key == "b" and hit.shard is None and hit.width is None
    assert pq.read_metadata(tmp_path / "pool/metadata/metadata_0000.parquet").num_rows == 2
