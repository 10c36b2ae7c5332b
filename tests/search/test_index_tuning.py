"""Tuning: the least work that reaches the recall, on queries held apart."""

import numpy as np
import pytest

from reactvl.search.asking import halves, of_queries, sampled
from reactvl.search.building import build
from reactvl.search.exact import top_k
from reactvl.search.gpu import fits_gpu, gpus, on_gpu
from reactvl.search.index import search
from reactvl.search.kinds import factory_of
from reactvl.search.knobs import apply, knob, parameters, refine_factors, value_of
from reactvl.search.latency import latency
from reactvl.search.recall import lower_bound, recall, recalls
from reactvl.search.tuned import tuned
from reactvl.search.tuning import tune, work


@pytest.fixture(scope="module")
def pool():
    """4,000 unit rows in 40 heaps, and 200 queries shifted off them as texts are off images."""
    generator = np.random.default_rng(0)
    heaps, shift = generator.standard_normal((40, 32)), 2 * generator.standard_normal(32)

    def drawn(count, off):
        rows = heaps[generator.integers(0, 40, count)] + 0.7 * generator.standard_normal((count, 32)) + off * shift
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return [drawn(4000, 0).astype(np.float16)], drawn(200, 1).astype(np.float32)


@pytest.mark.parametrize("factory", ["IVF60,SQ8", "IVF60,SQfp16", "IVF60,RaBitQ", "HNSW32,SQfp16"])
def test_tuning_reaches_the_recall_with_the_least_width(pool, factory):
    parts, queries = pool
    truth = top_k(queries, parts, 10)
    index = build(parts, factory, seed=1)
    setting = tune(index, queries, parts, truth, 10, 0.9)
    assert setting.recall >= 0.9

    def lower(width):
        found = search(index, queries, parts, 10, width=width, refine=setting.refine)
        return lower_bound(recalls(found, truth, 10), np.arange(200))

    assert lower(setting.value) >= 0.9
    assert setting.value < knob(index)[1]
    if setting.name == "nprobe":
        assert setting.value == 1 or lower(setting.value - max(1, setting.value // 8) - 1) < 0.9


def test_the_recall_of_a_setting_is_that_of_a_search_with_it(pool):
    parts, queries = pool
    truth = top_k(queries, parts, 10)
    index = build(parts, "IVF60,RaBitQ", seed=1)
    setting = tune(index, queries, parts, truth, 10, 0.95)
    found = search(index, queries, parts, 10, width=setting.value, refine=setting.refine)
    assert recall(found, truth, 10) == pytest.approx(setting.recall)


def test_width_and_refine_are_chosen_together(pool):
    """No pair of the grid that surely reaches the recall costs less by an eighth of width."""
    parts, queries = pool
    truth = top_k(queries, parts, 10)
    index = build(parts, "IVF60,RaBitQ", seed=1)
    setting = tune(index, queries, parts, truth, 10, 0.9)
    cost = work(index, setting.value, 10 * setting.refine)
    for factor in refine_factors(index):
        for width in range(1, 61):
            if work(index, width * 1.3, 10 * factor) < cost:
                found = search(index, queries, parts, 10, width=width, refine=factor)
                assert lower_bound(recalls(found, truth, 10), np.arange(200)) < 0.9


def test_a_width_or_refine_that_is_given_is_kept(pool):
    parts, queries = pool
    truth = top_k(queries, parts, 10)
    index = build(parts, "IVF60,SQ8", seed=1)
    setting = tune(index, queries, parts, truth, 10, 0.99, width=3)
    assert setting.value == 3
    assert tune(index, queries, parts, truth, 10, 0.9, refine=2.5).refine == 2.5


def test_what_cannot_be_reached_is_the_widest(pool):
    parts, queries = pool
    truth = top_k(queries, parts, 10)
    index = build(parts, "PQ4x4", seed=1)
    setting = tune(index, queries, parts, truth, 10, 1.0)
    assert setting.name == "exhaustive"
    assert setting.refine == refine_factors(index)[-1]
    assert setting.recall < 1.0


def test_overrides_leave_the_index_as_it_is(pool):
    parts, queries = pool
    for factory in ("IVF60,SQ8", "PCA16,IVF60,SQ8", "HNSW16", "IVF60,SQ8,RFlat"):
        index = build(parts, factory, seed=1)
        apply(index, 2)
        before = value_of(index)
        wide = search(index, queries, parts, 10, width=60)
        narrow = search(index, queries, parts, 10)
        assert value_of(index) == before
        truth = top_k(queries, parts, 10)
        assert recall(wide, truth, 10) > recall(narrow, truth, 10)
    assert parameters(build(parts, "Flat"), 5, 10) is None


def test_a_setting_in_the_index_and_one_given_are_the_same_search(pool):
    parts, queries = pool
    for factory in ("IVF60,SQ8", "PCA16,IVF60,SQ8", "IVF60,SQ8,RFlat"):
        index = build(parts, factory, seed=1)
        given = search(index, queries, parts, 10, width=5)
        apply(index, 5)
        stored = search(index, queries, parts, 10)
        assert np.array_equal(given.row, stored.row)


def test_recall_is_measured_at_three_depths_on_other_queries(pool):
    parts, queries = pool
    asked = sampled([queries.astype(np.float16)], 60, 0, source="captions", keys=False)
    assert len(asked.of(0)) == len(asked.of(1)) == 60
    assert not set(asked.of(0)) & set(asked.of(1))
    index = build(parts, "IVF60,SQ8", seed=1)
    found = tuned(index, asked, parts, 50, 0.9)
    assert list(found.recall_at) == [1, 10, 50]
    truth = top_k(asked.vectors[asked.of(1)], parts, 50)
    hits = search(index, asked.vectors[asked.of(1)], parts, 50, width=found.setting.value, refine=found.setting.refine)
    for depth, value in found.recall_at.items():
        assert value == pytest.approx(recall(hits, truth, depth))
        low, high = found.interval_at[depth]
        assert low <= value <= high


def test_keys_that_ask_do_not_find_themselves(pool):
    parts, _ = pool
    asked = sampled(parts, 50, 0, source="images", keys=True)
    found = tuned(build(parts, "Flat"), asked, parts, 10, 0.9)
    assert found.recall == 1.0
    assert np.array_equal(asked.vectors.astype(np.float16), parts[0][asked.own])


def test_halves_share_no_class():
    group = np.repeat(np.arange(31), 40)
    chosen, half = halves(group, 200, seed=3)
    assert len(chosen) == 400
    assert (np.diff(chosen) > 0).all()
    assert not set(group[chosen[half == 0]]) & set(group[chosen[half == 1]])
    assert np.bincount(half).tolist() == [200, 200]
    again = halves(group, 200, seed=3)
    assert np.array_equal(chosen, again[0])
    few, half = halves(np.zeros(9, int), 200, seed=0)
    assert len(few) == 9
    assert set(half) == {0, 1}


def test_hits_of_some_queries(pool):
    parts, queries = pool
    hits, chosen = top_k(queries, parts, 7), np.array([3, 5, 190])
    some, direct = of_queries(hits, chosen), top_k(queries[chosen], parts, 7)
    assert np.array_equal(some.row, direct.row)
    assert np.array_equal(some.query, direct.query)


def test_latency_tells_three_figures(pool):
    parts, queries = pool
    index = build(parts, factory_of("ivf-sq8", 4000))
    told = latency(lambda vectors, k: search(index, vectors, parts, k), queries[:20], 10)
    assert 0 < told["p50_ms"] <= told["p99_ms"]
    assert told["qps"] > 0


def test_a_gpu_is_found_only_where_faiss_has_one(pool, monkeypatch):
    """faiss-cpu has none and says so; of faiss-gpu, stood in for here, the copy gets half floats and the first GPU."""
    import faiss

    from reactvl.manifest import ReactvlError

    parts, _ = pool
    index = build(parts, "IVF60,SQ8")
    if not gpus():
        with pytest.raises(ReactvlError, match="sees no GPU"):
            on_gpu(index)
    asked = []

    class Options:
        useFloat16 = False

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "GpuClonerOptions", Options, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", lambda *given: asked.append(given) or "copy", raising=False)
    assert on_gpu(index) == "copy"
    assert asked[0][1:3] == (0, index)
    assert asked[0][3].useFloat16
    assert fits_gpu(2048, 2048) and not fits_gpu(2049, 1) and not fits_gpu(10, 4096)
