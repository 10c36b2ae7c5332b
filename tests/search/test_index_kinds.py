"""Which index fits a budget, and what each weighs."""

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactvl.manifest import ReactvlError
from reactvl.search.building import build
from reactvl.search.kinds import (
    NAMED,
    SMALLER,
    bytes_of,
    choose,
    empty,
    factory_of,
    lists_for,
    row_bytes,
    shown,
    size_of,
)
from reactvl.search.kmeans import centroids_of, nearest_to, shares

KINDS = (*NAMED, *SMALLER)


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_told_beforehand_is_the_files(kind):
    keys = np.random.default_rng(0).standard_normal((3000, 64)).astype(np.float16)
    factory = factory_of(kind, 3000)
    real = len(faiss.serialize_index(build([keys], factory)))
    assert size_of(factory, 3000, 64) == pytest.approx(real, rel=0.02)


def test_bytes_of_a_vector():
    """By hand, for 512 dimensions: floats; halves and an id; bytes and an id."""
    for kind, wanted in (("flat", 2048), ("ivf-flat", 1032), ("ivf-sq8", 520)):
        assert row_bytes(empty(factory_of(kind, 10**6), 512)) == wanted


def test_auto_takes_the_finest_that_fits():
    def chosen(memory, rows=10**6):
        return choose("auto", rows, 512, memory=None if memory is None else bytes_of(memory)).kind

    assert chosen(None) == chosen("2GB") == chosen("570MB") == "ivf-sq8"
    assert chosen("300MB") == "IVF4000,SQ4"
    assert chosen("100MB") == "IVF4000,RaBitQ"
    assert chosen(None, 10_000) == "flat"
    assert chosen("10MB", 10_000) == "ivf-sq8"
    assert choose("auto", 10**6, 512, recall=1.0).kind == "flat"


def test_a_quarter_of_hnsw32():
    """What the benchmark asks for: the automatic choice weighs at most a quarter of HNSW32 over float32."""
    assert choose("auto", 10**6, 512).size <= size_of("HNSW32", 10**6, 512) / 4


def test_an_impossible_budget_says_what_is_possible():
    with pytest.raises(ReactvlError, match=r"takes 88 MB, over the 20 MB of --memory at the least") as told:
        choose("auto", 10**6, 512, memory=bytes_of("20MB"))
    for words in (
        "ivf-sq8 528 MB (528 bytes a vector)",
        "flat 2.0 GB",
        "hnsw 1.3 GB",
        "RaBitQ 88 MB",
        "give more memory",
    ):
        assert words in str(told.value)
    with pytest.raises(ReactvlError, match=r"--kind hnsw: .* over the 600 MB .* possible are .*ivf-sq8 528 MB"):
        choose("hnsw", 10**6, 512, memory=bytes_of("600MB"))
    assert "\n" not in str(told.value)


@given(st.sampled_from([*KINDS, "auto"]), st.integers(1, 200_000), st.integers(0, 10**9))
def test_a_choice_never_exceeds_its_budget(kind, rows, memory):
    try:
        choice = choose(kind if kind in (*NAMED, "auto") else factory_of(kind, rows), rows, 64, memory=memory)
    except ReactvlError as fault:
        assert "possible are" in str(fault)
    else:
        assert choice.size <= memory


def test_any_factory_string_is_taken():
    choice = choose("OPQ16,IVF100,PQ16x4fs", 10**5, 64)
    assert choice.kind == choice.factory == "OPQ16,IVF100,PQ16x4fs"
    with pytest.raises(ReactvlError, match=r"--kind IVF10,PQ7: FAISS makes no such index for 64 dimensions"):
        choose("IVF10,PQ7", 1000, 64)
    with pytest.raises(ReactvlError, match="FAISS makes no such index"):
        choose("ivf", 1000, 64)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2GB", 2 * 10**9),
        ("500 MB", 5 * 10**8),
        ("512MiB", 512 << 20),
        ("1.5g", 1_500_000_000),
        ("4096", 4096),
        ("7kb", 7000),
    ],
)
def test_sizes_are_read(text, wanted):
    assert bytes_of(text) == wanted


@pytest.mark.parametrize("text", ["", "GB", "2XB", "-1GB", "0", "2iB", "1e9", "two"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ReactvlError, match="is no size"):
        bytes_of(text)


def test_sizes_are_shown():
    assert [shown(size) for size in (12, 5_000, 528_300_000, 2_048_000_000)] == [
        "12 bytes",
        "5.0 kB",
        "528 MB",
        "2.0 GB",
    ]


@given(st.integers(1, 10**9))
def test_lists_have_rows_enough(rows):
    assert lists_for(rows) == 1 or rows >= 39 * lists_for(rows)


def test_centroids_find_the_heaps():
    """Heaps far apart: every heap's rows go to centroids of that heap alone."""
    generator = np.random.default_rng(0)
    heaps = np.eye(16)[:12]
    label = generator.integers(0, 12, 2000)
    rows = (heaps[label] + 0.05 * generator.standard_normal((2000, 16))).astype(np.float16)
    centroids = centroids_of(rows, 48, seed=1)
    assert np.allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
    nearest = nearest_to(centroids)(rows)
    assert np.array_equal(nearest, (rows.astype(np.float64) @ centroids.T.astype(np.float64)).argmax(axis=1))
    whose = (centroids @ heaps.T).argmax(axis=1)
    assert (whose[nearest] == label).all()
    assert np.array_equal(centroids, centroids_of(rows, 48, seed=1))


def test_two_levels_of_centroids(monkeypatch):
    """Over the limit, rows are parted first; what they lie from their centroids is close to one level's."""
    rows = np.random.default_rng(3).standard_normal((3000, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)

    def closeness(centroids):
        return (rows @ centroids.T).max(axis=1).mean()

    one = centroids_of(rows, 100, seed=0)
    monkeypatch.setattr("reactvl.search.kmeans.TWO_LEVELS", 50)
    two = centroids_of(rows, 100, seed=0)
    assert two.shape == one.shape
    assert len(np.unique(two.round(5), axis=0)) == 100
    assert closeness(two) > closeness(one) - 0.02


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.data())
def test_shares_sum_and_never_exceed(sizes, data):
    sizes = np.array(sizes)
    if sizes.sum():
        count = data.draw(st.integers(1, int(sizes.sum())))
        given = shares(sizes, count)
        assert given.sum() == count
        assert (given <= sizes).all()
