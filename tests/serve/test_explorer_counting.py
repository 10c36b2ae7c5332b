"""Pairs above a similarity: the numbers of float64 arithmetic where all are counted, honest intervals where a sample is."""

import numpy as np
import pytest
from explorer_support import random_rows, unit

from reactvl.manifest import ReactvlError
from reactvl.serve import counting
from reactvl.serve.asking import Ask, Term
from reactvl.serve.explorer import Explorer


class Parts:
    """A side of these matrices."""

    def __init__(self, *parts: np.ndarray):
        self.parts, self.rows = list(parts), sum(map(len, parts))
        self.offsets = np.cumsum([0, *map(len, parts)])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_counts_at_thresholds_are_those_of_float64(dtype, monkeypatch):
    monkeypatch.setattr(counting, "BLOCK", 256)
    rows = random_rows(3000, dim=96, seed=1, dtype=dtype)
    rows[:40] *= 3  # nobody promised that a file's rows are of length 1
    rows[50] = np.nan
    query = random_rows(1, dim=96, seed=2, dtype="float32")[0]
    scores = np.sort((np.delete(rows, 50, 0).astype(np.float64)) @ query.astype(np.float64))
    gaps = np.diff(scores)
    closest = np.argsort(np.where(gaps > 1e-13, gaps, np.inf))[:60]  # where only float64 can tell one from the next
    assert gaps[closest].max() < 1e-5
    edges = [-9.0, 9.0, 0.0, *(scores[closest] + gaps[closest] / 2)]
    counted = counting.counted(Parts(rows[:1000], rows[1000:1000], rows[1000:]), query, edges)
    assert counted.exact and counted.pairs == 2999
    for above, edge in zip(counted.above, edges, strict=True):
        assert above.threshold == edge and above.count == above.low == above.high == int((scores >= edge).sum())


def test_the_histogram_holds_every_pair_in_its_bin():
    rows = random_rows(5000, dim=64, seed=1)
    query = random_rows(1, dim=64, seed=2, dtype="float32")[0]
    counted = counting.counted(Parts(rows), query, [])
    scores = rows.astype(np.float64) @ query.astype(np.float64)
    assert len(counted.edges) == len(counted.counts) + 1 <= counting.SHOWN + 1
    assert sum(counted.counts) == 5000 and counted.counts[0] and counted.counts[-1]
    edges = np.array(counted.edges)
    assert edges[0] <= scores.min() < edges[1] and edges[-2] <= scores.max() <= edges[-1]
    wanted = np.histogram(scores, edges)[0]
    assert np.abs(wanted - counted.counts).max() <= 2  # float32's rounding at an edge
    np.testing.assert_allclose(np.diff(edges), edges[1] - edges[0], atol=1e-5)


def test_what_lies_beyond_one_is_counted_in_the_last_bin():
    same = np.repeat(unit(np.ones((1, 16))) * 1.004, 9, axis=0).astype(np.float16)
    counted = counting.counted(Parts(same), unit(np.ones(16)).astype(np.float32), [1.0])
    assert sum(counted.counts) == counted.above[0].count == 9
    assert counting.counted(Parts(same[:0]), np.ones(16, np.float32), [0.5]).above[0].count == 0


def test_the_interval_of_an_estimate_holds_the_truth(monkeypatch):
    """Over many samples, thresholds and queries at least 95 of 100 intervals hold the true number, and they are narrow."""
    monkeypatch.setattr(counting, "SAMPLE", 2000)
    generator = np.random.default_rng(0)
    rows = random_rows(40_000, dim=16, seed=1)
    rows = rows[np.argsort(rows[:, 0])]  # a pool in an order that has to do with what it shows
    side = Parts(rows[:15_000], rows[15_000:])
    shares = np.array([0.9, 0.5, 0.1, 0.03, 0.01, 0.003, 0.0005, 0.0])
    held, widths, drawn = [], [], 0
    exact = rows.astype(np.float64)
    for seed in range(200):
        sample = counting.drawn(side, seed)
        assert len(sample) == 2000
        query = unit(generator.standard_normal(16)).astype(np.float32)
        scores = exact @ query
        falling = np.sort(scores)[::-1]
        edges = [float(falling[int(share * 40_000)]) for share in shares]
        best = falling[:50].astype(np.float32)
        told = counting.estimated(side, query, edges, sample, best)
        assert not told.exact and told.pairs == 40_000
        drawn += sum(told.counts)
        truth = [int((scores >= edge).sum()) for edge in edges]
        for at, (above, true) in enumerate(zip(told.above, truth, strict=True)):
            assert above.low <= above.count <= above.high
            held.append((at, above.low <= true <= above.high))
            widths.append((at, (above.high - above.low) / 40_000))
            if true < 50:
                assert above.count == above.low == true  # among what the index found
    held, widths = np.array(held), np.array(widths)
    for at in range(len(shares)):
        assert held[held[:, 0] == at, 1].mean() >= 0.93, shares[at]
    assert held[:, 1].mean() >= 0.95
    assert widths[widths[:, 0] == 1, 1].mean() < 0.06
    assert abs(drawn / 200 - 40_000) < 40


def test_a_sample_is_spread_evenly_over_the_pool(monkeypatch):
    monkeypatch.setattr(counting, "SAMPLE", 100)
    rows = np.arange(1030, dtype=np.float32)[:, None]
    sample = counting.drawn(Parts(rows[:7], rows[7:500], rows[500:]))[:, 0]
    edges = np.linspace(0, 1030, 101).astype(int)
    assert ((sample >= edges[:-1]) & (sample < edges[1:])).all()
    assert len(counting.drawn(Parts(rows[:60]))) == 60


def test_an_interval_ends_where_what_was_seen_would_be_seen_one_time_in_forty():
    for hits, tries, low, high in (
        (0, 10, 0, 0.30850), (10, 10, 0.69150, 1), (5, 10, 0.18709, 0.81291), (1, 50, 0.00051, 0.10647), (0, 0, 0, 1),
    ):  # fmt: skip
        np.testing.assert_allclose(counting.interval(hits, tries), (low, high), atol=1e-5)
    low, high = counting.interval(7, 65_536)
    terms = np.arange(65_537)
    from scipy.stats import binom

    assert binom.pmf(terms[7:], 65_536, low).sum() == pytest.approx(0.025, rel=1e-6)
    assert binom.pmf(terms[:8], 65_536, high).sum() == pytest.approx(0.025, rel=1e-6)


def test_a_run_is_counted_whole_or_by_class(small_run, tmp_path):
    from reactvl.handles.embeddings import Embeddings
    from reactvl.handles.pairs import Pairs

    explorer = Explorer(small_run, cache=tmp_path)
    images = Embeddings(small_run / "embeddings").parts[0].images()
    query = explorer.towers.texts(["a red thing"])["a red thing"]
    scores = images.astype(np.float64) @ query
    middle = float(np.median(scores))
    ask = Ask((Term(text="a red thing"),))
    counted = explorer.count(ask, [middle])
    assert counted.pairs == 90 and counted.exact and counted.above[0].count == int((scores >= middle).sum())
    own = {pair["row"] for pair in Pairs(small_run / "retrieved").table().to_pylist() if pair["class_id"] == 2}
    counted = explorer.count(Ask(ask.terms, class_id=2), [middle])
    assert counted.pairs == len(own) and counted.above[0].count == sum(scores[row] >= middle for row in own)
    for bad, said in (
        (Ask(ask.terms, caption="red"), "over the whole pool, a caption looks at the best only"),
        (Ask(ask.terms, model="gated-image"), "the model gated-image looks at the best only"),
        (Ask(()), "the query is empty"),
    ):
        with pytest.raises(ReactvlError, match=said):
            explorer.count(bad, [0.1])
    with pytest.raises(ReactvlError, match="a threshold is not a number"):
        explorer.count(ask, [float("nan")])
