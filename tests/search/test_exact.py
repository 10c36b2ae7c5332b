"""Exact search equals NumPy in float64, whatever product picks the candidates."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactvl.search import exact, products, rescore
from reactvl.search.exact import top_k
from reactvl.search.hits import Hits

PRODUCTS = ("fp32", "bf16", "blas")


def float64_top_k(queries: np.ndarray, keys: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and scores (Q, k) by sorting all float64 products, ties by the lower row."""
    scores = np.stack([np.einsum("nd,d->n", keys.astype(np.float64), query.astype(np.float64)) for query in queries])
    rows = np.stack([np.lexsort((np.arange(len(keys)), -row))[:k] for row in scores])
    return rows, np.take_along_axis(scores, rows, axis=1).astype(np.float32)


def agree(hits: Hits, queries: np.ndarray, keys: np.ndarray, k: int) -> None:
    rows, scores = float64_top_k(queries, keys, k)
    found = min(k, len(keys))
    assert np.array_equal(hits.row.reshape(len(queries), found), rows)
    assert np.array_equal(hits.score.reshape(len(queries), found), scores)
    assert np.array_equal(hits.query, np.repeat(np.arange(len(queries)), found))
    assert np.array_equal(hits.rank, np.tile(np.arange(found), len(queries)))


def cut(keys: np.ndarray, places: list[int]) -> list[np.ndarray]:
    return np.split(keys, sorted(place % (len(keys) + 1) for place in places))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(1, 12),
    rows=st.integers(1, 400),
    dim=st.integers(1, 48),
    k=st.integers(1, 450),
    places=st.lists(st.integers(0, 400), max_size=4),
    copies=st.booleans(),
    coarse=st.booleans(),
    product=st.sampled_from(PRODUCTS),
    memory=st.sampled_from([1, 40_000, 1 << 29]),
)
def test_equals_float64(seed, queries, rows, dim, k, places, copies, coarse, product, memory):
    """Any sizes and parts, equal rows, scores that tie in every bit, k beyond the pool, blocks of any size."""
    generator = np.random.default_rng(seed)
    asked = generator.standard_normal((queries, dim)).astype(np.float32)
    keys = generator.standard_normal((rows, dim)).astype(np.float16)
    if coarse:
        asked, keys = np.round(asked), np.round(keys)
    if copies:
        keys = keys[generator.integers(0, max(1, rows // 3), rows)]
    agree(top_k(asked, cut(keys, places), k, product=product, memory=memory), asked, keys, k)


@pytest.mark.parametrize("product", PRODUCTS)
def test_near_ties_over_many_blocks(product, monkeypatch):
    """Rows that differ by one float16 step, in an order that keeps raising the cutoffs, with merging forced often."""
    monkeypatch.setattr(exact, "QUERY_BLOCK", 5)
    generator = np.random.default_rng(0)
    asked = generator.standard_normal((13, 64)).astype(np.float32)
    base = generator.standard_normal(64).astype(np.float16)
    keys = np.tile(base, (20_000, 1))
    at = generator.integers(0, 64, len(keys))
    keys[np.arange(len(keys)), at] = np.nextafter(base[at], np.float16(np.inf) * generator.choice([-1, 1], len(keys)))
    order = np.argsort(keys.astype(np.float32) @ asked[0])
    keys = keys[order]
    agree(top_k(asked, [keys[:9000], keys[9000:]], 50, product=product, memory=1), asked, keys, 50)


def test_only_copies():
    """A pool of one row 30,000 times: the lowest rows are chosen, and candidates do not pile up."""
    keys = np.full((30_000, 8), 0.25, dtype=np.float16)
    hits = top_k(np.ones((3, 8), np.float32), [keys], 7, memory=1 << 20)
    assert hits.row.tolist() == list(range(7)) * 3
    assert set(hits.score.tolist()) == {2.0}


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("size", [1e-30, 1e-3, 1e4, 1e30])
def test_queries_of_any_size(product, size):
    """Bounds are relative to the query: sizes at the ends of float32 lose nothing."""
    generator = np.random.default_rng(1)
    asked = (generator.standard_normal((4, 32)) * size).astype(np.float32)
    keys = (generator.standard_normal((3000, 32)) * 100).astype(np.float16)
    agree(top_k(asked, [keys], 20, product=product), asked, keys, 20)


def test_a_zero_query_finds_the_first_rows():
    keys = np.random.default_rng(2).standard_normal((500, 16)).astype(np.float16)
    assert top_k(np.zeros((1, 16), np.float32), [keys], 5).row.tolist() == [0, 1, 2, 3, 4]


def test_rows_that_are_not_finite_are_never_found():
    generator = np.random.default_rng(3)
    keys = generator.standard_normal((900, 16)).astype(np.float16)
    asked = generator.standard_normal((5, 16)).astype(np.float32)
    bad = generator.choice(900, 40, replace=False)
    keys[bad[:20], 3] = np.nan
    keys[bad[20:], 5] = np.inf
    hits = top_k(asked, [keys[:300], keys[300:]], 900)
    assert hits.unfit == 40
    assert np.array_equal(np.bincount(hits.query), [860] * 5)
    assert not np.isin(hits.row, bad).any()
    whole = np.setdiff1d(np.arange(900), bad)
    rows, scores = float64_top_k(asked, keys[whole], 900)
    assert np.array_equal(hits.row.reshape(5, -1), whole[rows])
    assert np.array_equal(hits.score.reshape(5, -1), scores)


def test_a_product_that_breaks_its_bound_is_found_out(monkeypatch):
    """A "float32" product that secretly rounds its inputs to bfloat16 is noticed, and BLAS gives the right answer."""
    import torch

    def cheating(queries, keys):
        short = (torch.from_numpy(values).bfloat16().float() for values in (queries, keys))
        left, right = short
        return (left @ right.T).numpy()

    monkeypatch.setattr(products, "_onednn_linear", lambda: cheating)
    generator = np.random.default_rng(4)
    asked = generator.standard_normal((6, 64)).astype(np.float32)
    keys = generator.standard_normal((2000, 64)).astype(np.float16)
    agree(top_k(asked, [keys], 10, product="fp32"), asked, keys, 10)


def test_memory_maps_and_float16_queries(tmp_path):
    generator = np.random.default_rng(5)
    keys = generator.standard_normal((700, 24)).astype(np.float16)
    asked = generator.standard_normal((3, 24)).astype(np.float16)
    np.save(tmp_path / "a.npy", keys[:500])
    np.save(tmp_path / "b.npy", keys[500:])
    parts = [np.load(tmp_path / name, mmap_mode="r") for name in ("a.npy", "b.npy")]
    agree(top_k(asked, parts, 30), asked.astype(np.float32), keys, 30)


def test_nothing_to_find():
    asked = np.ones((2, 4), np.float32)
    assert len(top_k(asked, [], 3)) == 0
    assert len(top_k(asked, [np.empty((0, 4), np.float16)], 3)) == 0
    assert len(top_k(asked[:0], [np.ones((5, 4), np.float16)], 3)) == 0
    assert top_k(asked, [np.ones((0, 4), np.float16), np.ones((1, 4), np.float16)], 3).row.tolist() == [0, 0]


def test_what_is_refused():
    keys = [np.ones((5, 4), np.float16)]
    with pytest.raises(ValueError, match="query 1 holds a NaN"):
        top_k(np.array([[1, 1, 1, 1], [1, np.nan, 1, 1]], np.float32), keys, 1)
    with pytest.raises(ValueError, match=r"wanted \(Q, 4\)"):
        top_k(np.ones((2, 5), np.float32), keys, 1)
    with pytest.raises(ValueError, match="k is 0"):
        top_k(np.ones((2, 4), np.float32), keys, 0)
    with pytest.raises(ValueError, match="with one D"):
        top_k(np.ones((2, 4), np.float32), [*keys, np.ones((5, 3), np.float16)], 1)
    with pytest.raises(ValueError, match="choose one of"):
        top_k(np.ones((2, 4), np.float32), keys, 1, product="int4")


def test_progress_counts_every_row_once():
    counted = []
    top_k(
        np.ones((2, 4), np.float32), [np.ones((n, 4), np.float16) for n in (3000, 0, 5000)], 2, advance=counted.append
    )
    assert sum(counted) == 8000


def test_equal_rows_score_alike_wherever_they_stand(monkeypatch):
    """Re-scoring gives bit-equal scores to equal rows, alone or among others, in any chunk."""
    monkeypatch.setattr(rescore, "CHUNK_ROWS", 97)
    generator = np.random.default_rng(6)
    for dim in (1, 7, 64, 513):
        asked = generator.standard_normal((2, dim)).astype(np.float32)
        keys = np.tile(generator.standard_normal(dim).astype(np.float16), (1000, 1))
        rows = generator.permutation(1000)
        many = rescore.rescore(asked, [keys[:350], keys[350:]], np.zeros(1000, int), rows)
        one = rescore.rescore(asked, [keys], np.array([0]), np.array([999]))
        assert set(many.tolist()) == set(one.tolist())
