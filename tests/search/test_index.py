"""FAISS indexes against exact search."""

import faiss
import numpy as np
import pytest

from reactvl.manifest import ReactvlError
from reactvl.search.exact import top_k
from reactvl.search.index import KINDS, build, load, save, search, training_sample
from reactvl.search.recall import recall, without_own
from reactvl.search.tuning import knob, tune


@pytest.fixture(scope="module")
def pool():
    """4,000 unit rows in 40 heaps in two parts, and 120 queries of the same kind."""
    generator = np.random.default_rng(0)
    heaps = generator.standard_normal((40, 32))

    def drawn(count):
        rows = heaps[generator.integers(0, 40, count)] + 0.7 * generator.standard_normal((count, 32))
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    keys = drawn(4000).astype(np.float16)
    return [keys[:1500], keys[1500:]], drawn(120).astype(np.float32)


def test_flat_finds_what_exact_search_finds(pool):
    parts, queries = pool
    found, truth = search(build(parts, "flat"), queries, parts, 20), top_k(queries, parts, 20)
    assert np.array_equal(found.row, truth.row)
    assert np.array_equal(found.score, truth.score)


def test_exact_search_agrees_with_faiss_alone(pool):
    parts, queries = pool
    index = faiss.IndexFlatIP(32)
    index.add(np.concatenate(parts).astype(np.float32))
    scores, _ = index.search(queries, 20)
    assert np.allclose(top_k(queries, parts, 20).score.reshape(120, 20), scores, atol=1e-5)


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_tuning_reaches_the_recall_with_the_narrowest_search(pool, kind):
    parts, queries = pool
    truth = top_k(queries, parts, 10)
    index = build(parts, kind, seed=1)
    setting = tune(index, queries, parts, truth, 10, 0.95)
    assert setting.recall >= 0.95
    assert recall(search(index, queries, parts, 10), truth, 10) == setting.recall
    assert setting.value < knob(index)[1]


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_bytes_and_a_file_keeps_its_setting(pool, kind, tmp_path):
    parts, queries = pool
    truth = top_k(queries, parts, 10)
    for name in ("a", "b"):
        index = build(parts, kind, seed=5)
        tune(index, queries, parts, truth, 10, 0.9)
        save(index, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    again = load(tmp_path / "a")
    here, there = search(index, queries, parts, 10), search(again, queries, parts, 10)
    assert np.array_equal(here.row, there.row)


@pytest.mark.parametrize("kind", KINDS)
def test_minus_one_is_never_a_row(pool, kind):
    """Asked for more rows than a search can reach, it gives fewer."""
    parts, queries = pool
    found = search(build(parts, kind), queries, parts, 4000)
    assert found.row.min() >= 0
    assert np.isfinite(found.score).all()
    assert len(np.unique(found.query.astype(np.int64) * 4000 + found.row)) == len(found)
    if kind == "ivf":
        assert len(found) < 120 * 4000


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_not_finite_are_never_found(pool, kind):
    parts, queries = pool
    keys = np.concatenate(parts)
    keys[::50] = np.nan
    found = search(build([keys], kind), -queries, [keys], 2000)
    assert not (found.row % 50 == 0).any()


@pytest.mark.parametrize("rows", [1, 2, 30, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_small_pools(kind, rows):
    keys = np.random.default_rng(1).standard_normal((rows, 16)).astype(np.float16)
    index = build([keys], kind)
    truth = top_k(keys.astype(np.float32), [keys], 5)
    assert tune(index, keys.astype(np.float32), [keys], truth, 5, 1.0).recall == 1.0


def test_the_training_sample_is_a_function_of_the_seed(pool):
    parts, _ = pool
    one, same, other = (training_sample(parts, 300, seed) for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    joined = {row.tobytes() for row in np.concatenate(parts).astype(np.float32)}
    assert {row.tobytes() for row in one} <= joined


def test_recall_counts_copies_by_score():
    keys = np.random.default_rng(2).standard_normal((60, 8)).astype(np.float16)
    keys = np.concatenate([keys, keys])
    asked = keys[:4].astype(np.float32)
    truth = top_k(asked, [keys], 5)
    swapped = type(truth)(truth.query, (truth.row + 60) % 120, truth.score, truth.rank, 4)
    assert recall(swapped, truth, 5) == 1.0
    assert recall(top_k(asked, [keys[:5]], 5), truth, 5) < 1.0


def test_recall_of_queries_that_found_nothing():
    keys = np.random.default_rng(3).standard_normal((50, 8)).astype(np.float16)
    truth = top_k(np.ones((3, 8), np.float32), [keys], 4)
    kept = truth.query == 1
    only = type(truth)(truth.query[kept], truth.row[kept], truth.score[kept], truth.rank[kept], 3)
    assert recall(only, truth, 4) == pytest.approx(1 / 3)
    none = type(truth)(truth.query[:0], truth.row[:0], truth.score[:0], truth.rank[:0], 3)
    assert recall(none, truth, 4) == 0.0
    assert recall(none, none, 4) == 1.0


def test_a_querys_own_row_is_left_out():
    keys = np.random.default_rng(4).standard_normal((40, 8)).astype(np.float16)
    keys = (keys / np.linalg.norm(keys.astype(np.float32), axis=1, keepdims=True)).astype(np.float16)
    own = np.array([7, 3])
    hits = without_own(top_k(keys[own].astype(np.float32), [keys], 6), own, 5)
    assert np.array_equal(np.bincount(hits.query), [5, 5])
    assert not (hits.row == own[hits.query]).any()
    assert hits.rank.tolist() == [0, 1, 2, 3, 4] * 2


def test_what_is_refused(pool, tmp_path):
    parts, queries = pool
    (tmp_path / "junk").write_bytes(b"nothing of FAISS's")
    with pytest.raises(ReactvlError, match="FAISS cannot read it"):
        load(tmp_path / "junk")
    with pytest.raises(ReactvlError, match="no such index file"):
        load(tmp_path / "absent")
    with pytest.raises(ReactvlError, match="no vectors"):
        build([np.empty((0, 8), np.float16)], "flat")
    with pytest.raises(ValueError, match="choose one of"):
        build(parts, "lsh")
    with pytest.raises(ReactvlError, match="index them again"):
        search(build(parts, "flat"), queries, parts[:1], 3)
