"""The engine of the service on a small real run: what it finds is what plain arithmetic on the stored vectors finds."""

import threading

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from explorer_support import nearest, unit

from reactvl.handles.embeddings import Embeddings
from reactvl.handles.pairs import Pairs
from reactvl.manifest import ReactvlError
from reactvl.search.exact import top_k
from reactvl.serve.asking import Answer, Ask, Term
from reactvl.serve.explorer import Explorer


@pytest.fixture(scope="module")
def explorer(small_run, tmp_path_factory) -> Explorer:
    return Explorer(small_run, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def images(small_run) -> np.ndarray:
    return Embeddings(small_run / "embeddings").parts[0].images()[:]


@pytest.fixture(scope="module")
def texts(small_run) -> np.ndarray:
    return Embeddings(small_run / "embeddings").parts[0].texts()[:]


def one(explorer: Explorer, *terms: Term, **options) -> Answer:
    [answer] = explorer.answer([Ask(terms, **options)])
    if isinstance(answer, ReactvlError):
        raise answer
    return answer


def rows(answer: Answer) -> list[int]:
    return [hit.row for hit in answer.hits]


def text_vector(explorer: Explorer, text: str) -> np.ndarray:
    return explorer.towers.texts([text])[text]


def test_a_text_finds_what_float64_arithmetic_and_exact_search_find(explorer, images, texts):
    for keys, matrix in (("image", images), ("text", texts)):
        query = text_vector(explorer, "a red thing")
        answer = one(explorer, Term(text="a red thing"), keys=keys, k=20, dedup=False)
        wanted, scores = nearest(matrix, query, 20)
        assert rows(answer) == wanted == top_k(query[None], [matrix], 20).row.tolist()
        np.testing.assert_allclose([hit.similarity for hit in answer.hits], scores, atol=1e-6)
        assert answer.exact and answer.recall is None
        side = [hit.image_similarity if keys == "image" else hit.text_similarity for hit in answer.hits]
        assert side == [hit.similarity for hit in answer.hits]


def test_text_vectors_are_the_models_and_are_encoded_once(small_run, small_model, tmp_path):
    from reactvl.models import load

    explorer = Explorer(small_run, precision="fp32", cache=tmp_path)
    encoder, asked = explorer.towers.encoder, []
    encode = encoder.texts
    encoder.texts = lambda texts: (asked.append(list(texts)), encode(texts))[1]
    explorer.answer([Ask((Term(text="red"),)), Ask((Term(text="blue"), Term(text="red")))])
    explorer.answer([Ask((Term(text="blue"),))])
    assert asked == [["red", "blue"]]
    wanted = load(small_model).encode_text(["blue"])[0].numpy()
    np.testing.assert_allclose(text_vector(explorer, "blue"), wanted, atol=1e-5)


def test_terms_are_weighed_and_a_pair_asks_with_its_own_vector_of_the_side(explorer, images, texts):
    vector = np.linspace(-1, 1, images.shape[1]).astype(np.float32)
    terms = (Term(2.0, text="green"), Term(-0.5, pair=(0, 7)), Term(0.25, vector=1e30 * vector))
    for keys, matrix in (("image", images), ("text", texts)):
        query = unit(
            2.0 * text_vector(explorer, "green").astype(np.float64)
            - 0.5 * unit(matrix[7].astype(np.float64))
            + 0.25 * unit(vector.astype(np.float64))
        )
        answer = one(explorer, *terms, keys=keys, k=15, dedup=False)
        assert rows(answer) == nearest(matrix, query, 15)[0]


def test_a_pictures_bytes_ask_with_the_pictures_vector(explorer, images):
    data = explorer.picture(0, 11)
    pixels = explorer.pixels(data)
    assert pixels.dtype == torch.uint8 and tuple(pixels.shape) == (3, 32, 32)
    [query] = explorer.towers.encoder.images(pixels[None])
    np.testing.assert_allclose(query, unit(images[11].astype(np.float64)), atol=0.01)  # bf16, alone and in a batch
    assert rows(one(explorer, Term(pixels=pixels), k=20, dedup=False)) == nearest(images, query, 20)[0]


def test_both_sides_are_joined_as_z_scores_are_in_retrieve(explorer, images, texts):
    from reactvl.retrieve.scoring import FitScores

    query = text_vector(explorer, "a blue thing")
    answer = one(explorer, Term(text="a blue thing"), keys="both", k=30, dedup=False)
    z = []
    for matrix in (images.astype(np.float64), texts.astype(np.float64)):
        scores = matrix @ query.astype(np.float64)
        z.append((scores - scores.mean()) / scores.std())
    joint = np.hypot(np.maximum(z[0], 0), np.maximum(z[1], 0))
    joint = np.where(joint > 0, joint, np.maximum(*z))
    assert rows(answer) == np.argsort(-joint, kind="stable")[:30].tolist()
    means = query[None].astype(np.float64)
    fit = FitScores({"t2i": means, "t2t": means}, {"t2i": [images], "t2t": [texts]}, seed=0)
    found = np.array(rows(answer))
    np.testing.assert_allclose(fit.of_pairs(np.zeros(30, np.int64), found).joint, joint[found], atol=1e-5)
    first = answer.hits[0]
    assert first.similarity == first.image_similarity
    np.testing.assert_allclose(
        [first.image_similarity, first.text_similarity], [side[first.row].astype(float) @ query for side in (images, texts)]
    , atol=1e-6)  # fmt: skip


def test_pages_follow_each_other_without_gap_or_repetition(explorer):
    for keys in ("image", "both"):
        whole = rows(one(explorer, Term(text="thing"), k=89, keys=keys))
        pages = [rows(one(explorer, Term(text="thing"), k=10, offset=first, keys=keys)) for first in range(0, 100, 10)]
        assert [row for page in pages for row in page] == whole and len(set(whole)) == len(whole) == 89


def test_a_class_is_searched_among_its_pairs_as_brute_force_does(explorer, small_run, images, texts):
    pairs = Pairs(small_run / "retrieved").table().to_pylist()
    for class_id in range(3):
        own = sorted(pair["row"] for pair in pairs if pair["class_id"] == class_id)
        for keys, matrix in (("image", images), ("text", texts)):
            query = text_vector(explorer, "a green thing")
            answer = one(explorer, Term(text="a green thing"), class_id=class_id, keys=keys, dedup=False, k=100)
            order, scores = nearest(matrix[own], query, 100)
            assert rows(answer) == [own[at] for at in order]
            np.testing.assert_allclose([hit.similarity for hit in answer.hits], scores, atol=1e-6)
            assert all(class_id in hit.class_ids for hit in answer.hits) and answer.exact
    with pytest.raises(ReactvlError, match="no class 3: it has 3, numbered from 0"):
        one(explorer, Term(text="x"), class_id=3)


def test_facets_count_the_classes_of_the_best_pairs(explorer, small_run):
    pairs = Pairs(small_run / "retrieved").table().to_pylist()
    answer = one(explorer, Term(text="x"), k=1)
    counts = {number: sum(pair["class_id"] == number for pair in pairs) for number in range(3)}
    assert dict(answer.facets) == counts  # of a pool of 90 all are among the best 1,000
    assert [count for _, count in answer.facets] == sorted(counts.values(), reverse=True)


def test_pairs_of_a_class_come_in_rank_order(explorer, small_run):
    pairs = [pair for pair in Pairs(small_run / "retrieved").table().to_pylist() if pair["class_id"] == 1]
    pairs.sort(key=lambda pair: pair["rank"])
    found = explorer.class_pairs(1, 0, 1000)
    assert [(hit.part, hit.row, hit.similarity) for hit in found] == [
        (pair["part"], pair["row"], pair["similarity"]) for pair in pairs
    ]
    assert [hit.row for hit in explorer.class_pairs(1, 3, 2)] == [pair["row"] for pair in pairs[3:5]]
    assert explorer.class_pairs(1, 10**9, 2) == []
    for offset, limit in ((-1, 1), (0, 0)):
        with pytest.raises(ReactvlError, match="wanted 0 or more"):
            explorer.class_pairs(1, offset, limit)


def test_of_copies_the_best_is_kept(explorer, images):
    query = images[34].astype(np.float32)
    every = rows(one(explorer, Term(vector=query), dedup=False, k=90))
    single = rows(one(explorer, Term(vector=query), k=90))
    assert np.array_equal(images[34], images[40])  # one picture twice: equal scores, the lower row is before the other
    assert every.index(34) == every.index(40) - 1 and len(every) == 90
    assert single == [row for row in every if row != 40]


def test_a_minimum_cuts_where_the_similarity_falls_below_it(explorer, images, texts):
    query = text_vector(explorer, "red")
    scores = images.astype(np.float64) @ query
    least = float(np.sort(scores)[-12] - 1e-4)
    assert len(one(explorer, Term(text="red"), min_similarity=least, dedup=False).hits) == 12
    assert one(explorer, Term(text="red"), min_similarity=2.0).hits == []
    both = one(explorer, Term(text="red"), min_similarity=least, dedup=False, keys="both", k=90)
    assert sorted(rows(both)) == sorted(np.flatnonzero(scores >= least).tolist())


def test_captions_are_searched_in_any_script_whatever_the_case(explorer, small_run):
    captions = pq.read_table(next((small_run / "embeddings/metadata").iterdir()))["caption"].to_pylist()
    for phrase in ("RED thing", "  green   THING ", "צבע", "<script>", "🟢", "ＴＨＩＮＧ 8", "nothing of the kind"):
        plain = " ".join(phrase.split()).casefold().replace("ｔｈｉｎｇ", "thing")
        wanted = {row for row, caption in enumerate(captions) if plain in " ".join(caption.casefold().split())}
        answer = one(explorer, Term(text="a thing"), caption=phrase, dedup=False, k=90)
        assert set(rows(answer)) == wanted and answer.examined == 90
        order = [row for row in rows(one(explorer, Term(text="a thing"), dedup=False, k=90)) if row in wanted]
        assert rows(answer) == order


def test_a_bad_search_harms_none_of_the_others(explorer):
    bad = {
        "the query is empty": Ask(()),
        "give one of text": Ask((Term(),)),
        "has text and vector": Ask((Term(text="x", vector=np.ones(32)),)),
        "a weight is nan": Ask((Term(float("nan"), text="x"),)),
        "a weight is inf": Ask((Term(float("inf"), text="x"),)),
        "a text of 0 letters": Ask((Term(text=""),)),
        "a text of 3 letters": Ask((Term(text=" \n\t"),)),
        "a text of 100,000 letters": Ask((Term(text="x" * 100_000),)),
        "32 dimensions": Ask((Term(vector=np.ones(31)),)),
        "holds a NaN": Ask((Term(vector=np.full(32, np.nan)),)),
        "nothing but zeros": Ask((Term(vector=np.zeros(32)),)),
        "pixels of shape": Ask((Term(pixels=torch.zeros(3, 8, 8, dtype=torch.uint8)),)),
        "torch.float32; wanted": Ask((Term(pixels=torch.zeros(3, 32, 32)),)),
        "there is no part 7": Ask((Term(pair=(7, 0)),)),
        "none numbered 90": Ask((Term(pair=(0, 90)),)),
        "none numbered -1": Ask((Term(pair=(0, -1)),)),
        "none numbered 1,000": Ask((Term(pair=(0, 10**30)),)),
        "cancel each other out": Ask((Term(text="x"), Term(-1.0, text="x"))),
        "at most 32 are taken": Ask((Term(text="x"),) * 33),
        "use image, text or both": Ask((Term(text="x"),), keys="pictures"),
        "k is 0": Ask((Term(text="x"),), k=0),
        "offset -1": Ask((Term(text="x"),), offset=-1),
        "min_similarity is nan": Ask((Term(text="x"),), min_similarity=float("nan")),
        "no class -1": Ask((Term(text="x"),), class_id=-1),
        "there is no model '../base'": Ask((Term(text="x"),), model="../base"),
    }
    good = Ask((Term(text="a red thing \ud800"),), k=10**12)
    asks = [ask for wrong in bad.values() for ask in (good, wrong)]
    answers = explorer.answer(asks)
    for said, answer in zip(bad, answers[1::2], strict=True):
        assert isinstance(answer, ReactvlError) and said in str(answer), (said, answer)
    alone = rows(one(explorer, *good.terms, k=90))
    assert all(rows(answer) == alone for answer in answers[::2])


def test_a_text_that_the_model_refuses_fails_alone(explorer, monkeypatch):
    encode = explorer.towers.encoder.texts

    def refusing(texts):
        if any("poison" in text for text in texts):
            raise ValueError("token out of range\nand more")
        return encode(texts)

    monkeypatch.setattr(explorer.towers.encoder, "texts", refusing)
    good, bad, last = explorer.answer([Ask((Term(text=text),)) for text in ("fine one", "poison", "fine two")])
    assert str(bad) == "the model cannot encode this text (token out of range)"
    assert good.hits and last.hits


def test_info_says_what_is_served(explorer, small_run):
    info = explorer.info()
    assert info["pairs"] == 90 and info["parts"] == 1 and info["dim"] == 32 and info["pictures"] and info["run"]
    assert info["sides"] == {name: {"engine": "exact", "recall": None} for name in ("image", "text")}
    assert [one["name"] for one in info["classes"]] == ["red", "green", "blue"]
    assert sum(one["pairs"] for one in info["classes"]) == len(Pairs(small_run / "retrieved"))
    assert info["models"] == [{"name": "base"}, {"name": "gated-image"}]


def test_a_pair_is_known_by_every_column(explorer, small_run):
    [row] = pq.read_table(next((small_run / "embeddings/metadata").iterdir())).slice(4, 1).to_pylist()
    known = explorer.pair(0, 4)
    assert known["part"] == 0 and known["row"] == 4 and known["sha256"] == row["sha256"].hex()
    for name in set(row) - {"sha256", "phash"}:
        assert known[name] == row[name], name
    [hit] = [hit for hit in one(explorer, Term(pair=(0, 4)), k=90).hits if hit.row == 4]
    for name in ("caption", "shard", "key", "url", "width", "height", "sha256", "class_ids"):
        assert getattr(hit, name) == known[name]


def test_pictures_come_as_they_lie_and_small(explorer, small_pool):
    import io

    from PIL import Image
    from tests_support import drawing

    assert explorer.picture(0, 31) == drawing(31, "png")
    data, mime = explorer.thumbnail(0, 31, 20)
    image = Image.open(io.BytesIO(data))
    assert mime == "image/webp" and image.format == "WEBP" and max(image.size) == 20
    assert image.size == (18, 20)  # 40 x 44
    assert Image.open(io.BytesIO(explorer.thumbnail(0, 31, 512)[0])).size == (40, 44)
    for side in (0, -5, 10**6):
        with pytest.raises(ReactvlError, match="16 to 1024"):
            explorer.thumbnail(0, 31, side)
    with pytest.raises(ReactvlError, match="part 0 has 90 rows, none numbered 90"):
        explorer.picture(0, 90)


def test_what_is_no_picture_is_refused_before_it_is_decoded(explorer, monkeypatch):
    import struct
    import zlib

    from reactvl.serve import pictures

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb += chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    whole = explorer.picture(0, 0)
    with monkeypatch.context() as patch:
        patch.setattr(pictures, "to_pixels", lambda *_, **__: pytest.fail("it was decoded"))
        with pytest.raises(ReactvlError, match="no image: JPEG, PNG"):
            explorer.pixels(b"<svg xmlns='http://www.w3.org/2000/svg'/>")
        with pytest.raises(ReactvlError, match="no image"):
            explorer.pixels(b"")
        with pytest.raises(ReactvlError):
            explorer.pixels(bomb)
        with pytest.raises(ReactvlError, match="40 x 44 pixels; at most 1,000 are taken"):
            explorer.pixels(whole, max_pixels=1000)
    with pytest.raises(ReactvlError, match="cannot be read"):
        explorer.pixels(whole[:300])


def test_many_threads_see_what_one_sees(explorer):
    wanted = {
        row: (explorer.picture(0, row), explorer.thumbnail(0, row, 64), explorer.pair(0, row)) for row in range(30)
    }
    alone = rows(one(explorer, Term(text="a thing"), k=50))
    faults, stop = [], threading.Event()

    def look():
        while not stop.is_set():
            for row, (picture, small, known) in wanted.items():
                if (explorer.picture(0, row), explorer.thumbnail(0, row, 64), explorer.pair(0, row)) != (
                    picture,
                    small,
                    known,
                ):
                    faults.append(row)
                explorer.class_pairs(row % 3, 0, 5)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            assert rows(one(explorer, Term(text="a thing"), k=50)) == alone
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not faults


def test_a_damaged_pool_is_told_by_shard_and_key(own_run, small_pool, tmp_path):
    import shutil

    pool = shutil.copytree(small_pool, tmp_path / "pool")
    shards = own_run / "embeddings/shards.parquet"
    table = pq.read_table(shards)
    where = [str(pool / name) for name in table["shard"].to_pylist()]
    times = [(pool / name).stat().st_mtime_ns for name in table["shard"].to_pylist()]
    table = table.set_column(table.column_names.index("path"), "path", [where])
    pq.write_table(table.set_column(table.column_names.index("mtime_ns"), "mtime_ns", [times]), shards)
    explorer = Explorer(own_run)
    assert explorer.picture(0, 0) and (own_run / "serve/metadata.json").exists()
    (pool / "00001.tar").unlink()
    (pool / "00002.tar").write_bytes(b"another file")
    for row, fault in ((30, "00001.tar, 000010000: its picture cannot be read"), (60, "has changed since it was read")):
        with pytest.raises(ReactvlError, match=fault):
            explorer.thumbnail(0, row)
    assert len(one(explorer, Term(text="a thing"), k=90, dedup=False).hits) == 90


def test_a_folder_of_another_kind_is_refused_with_the_way_out(small_run, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, said in (
        (tmp_path / "none", "no such folder"),
        (tmp_path / "empty", "is no run .* and no embeddings; give the folder that `reactvl run`"),
        (small_run / "retrieved", "holds the output of `retrieve`"),
    ):
        with pytest.raises(ReactvlError, match=said):
            Explorer(folder, cache=tmp_path / "cache")


def test_embeddings_alone_have_no_classes_and_no_other_model(small_embeddings, tmp_path):
    explorer = Explorer(small_embeddings, cache=tmp_path)
    info = explorer.info()
    assert info["classes"] == [] and info["models"] == [{"name": "base"}] and not info["run"]
    answer = one(explorer, Term(text="red"))
    assert answer.facets == [] and all(hit.class_ids == [] for hit in answer.hits)
    with pytest.raises(ReactvlError, match="nothing was retrieved here"):
        explorer.class_pairs(0)


def test_a_retrieved_folder_of_other_embeddings_is_left_out(own_run, small_pool, small_model, capsys):
    import shutil

    import reactvl as rv

    shutil.rmtree(own_run / "embeddings")
    rv.embed([str(small_pool / "00000.tar")], small_model, out=own_run / "embeddings")
    explorer = Explorer(own_run)
    assert explorer.info()["pairs"] == 30 and explorer.info()["classes"] == []
    assert "shows no classes, for" in capsys.readouterr().out
