"""Exact search equals NumPy in float64, whatever product picks the candidates."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactvl.search import exact, products, rescore
from reactvl.search.exact import above, top_k
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


def planted(generator, rows: int, dim: int, best: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Queries and keys such that the rows `best` are the nearest of every query."""
    asked = generator.standard_normal((300, dim)).astype(np.float32) + 2
    keys = generator.standard_normal((rows, dim)).astype(np.float16)
    keys[best] += np.float16(2)
    return asked, keys


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("where", ["sampled", "unsampled", "spread"])
def test_guessed_cutoffs(product, where, monkeypatch):
    """The best rows all in the sample (the guess is too high: proved and searched again), none there, or spread."""
    monkeypatch.setattr(exact, "SAMPLE_FROM", 1000)
    monkeypatch.setattr(exact, "MANY", 1)
    generator = np.random.default_rng(7)
    sampled = (np.arange(4096) * (20_000 / 4096)).astype(np.int64)
    pools = {"sampled": sampled, "unsampled": np.setdiff1d(np.arange(20_000), sampled), "spread": np.arange(20_000)}
    asked, keys = planted(generator, 20_000, 24, generator.choice(pools[where], 60, replace=False))
    redone = []
    search = exact._search
    monkeypatch.setattr(
        exact, "_search", lambda queries, *rest, **named: redone.append(len(queries)) or search(queries, *rest, **named)
    )
    agree(top_k(asked, [keys[:7000], keys[7000:]], 40, product=product), asked, keys, 40)
    assert (len(redone) > 1) == (where == "sampled")


def test_lanes_agree_with_one(monkeypatch):
    """Queries parted among cores, keys parted among cores, and one core give the same hits."""
    generator = np.random.default_rng(8)
    asked, keys = planted(generator, 30_000, 16, np.arange(500))
    whole = {}
    for lanes in (1, 2, 5):
        monkeypatch.setattr(exact, "_lanes", lambda product, lanes=lanes: lanes)
        for many in (1, 10_000):
            monkeypatch.setattr(exact, "MANY", many)
            hits = top_k(asked, [keys[:100], keys[100:]], 30)
            whole[lanes, many] = (hits.query, hits.row, hits.score)
    for other in whole.values():
        for mine, first in zip(other, whole[1, 1], strict=True):
            assert np.array_equal(mine, first)


def test_a_full_block_of_queries():
    """1024 queries fill the ten bits that a candidate has for them."""
    generator = np.random.default_rng(9)
    asked = generator.standard_normal((1030, 8)).astype(np.float32)
    keys = generator.standard_normal((1500, 8)).astype(np.float16)
    agree(top_k(asked, [keys], 3), asked, keys, 3)


def test_the_gpu_path_on_this_machines_device():
    """What a GPU runs (bf16 product, comparison and listing in torch), run on torch's CPU device."""
    generator = np.random.default_rng(10)
    asked = generator.standard_normal((40, 32)).astype(np.float32)
    keys = generator.standard_normal((3000, 32)).astype(np.float16)
    product = products.DeviceProduct("cpu")
    query, row, score, _ = exact._search(asked, [keys], 25, product, 1 << 20, None)
    rows, scores = float64_top_k(asked, keys, 25)
    assert np.array_equal(row.reshape(40, 25), rows)
    assert np.array_equal(score.astype(np.float32).reshape(40, 25), scores)
    assert np.array_equal(query, np.repeat(np.arange(40), 25))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), threshold=st.floats(-6, 6), product=st.sampled_from(PRODUCTS), coarse=st.booleans()
)
def test_all_rows_above_a_threshold(seed, threshold, product, coarse):
    """Range search equals float64's, rows exactly at the threshold included."""
    generator = np.random.default_rng(seed)
    asked = generator.standard_normal((5, 12)).astype(np.float32)
    keys = generator.standard_normal((2500, 12)).astype(np.float16)
    if coarse:
        asked, keys, threshold = np.round(asked), np.round(keys), round(threshold)
    hits = above(asked, [keys[:900], keys[900:]], threshold, product=product, memory=1)
    rows, _ = float64_top_k(asked, keys, 2500)
    exact_scores = np.stack(
        [
            np.einsum("nd,d->n", keys[row].astype(np.float64), query.astype(np.float64))
            for row, query in zip(rows, asked, strict=True)
        ]
    )
    wanted = [row[score >= threshold] for row, score in zip(rows, exact_scores, strict=True)]
    assert np.array_equal(hits.row, np.concatenate(wanted))
    assert np.array_equal(np.bincount(hits.query, minlength=5), [len(row) for row in wanted])


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
    monkeypatch.setattr(rescore, "AT_ONCE", 97 * 7)
    generator = np.random.default_rng(6)
    for dim in (1, 7, 64, 513):
        asked = generator.standard_normal((2, dim)).astype(np.float32)
        keys = np.tile(generator.standard_normal(dim).astype(np.float16), (1000, 1))
        rows = generator.permutation(1000)
        many = rescore.rescore(asked, [keys[:350], keys[350:]], np.zeros(1000, int), rows)
        one = rescore.rescore(asked, [keys], np.array([0]), np.array([999]))
        assert set(many.tolist()) == set(one.tolist())
