"""FAISS indexes against exact search: searching, range search, files."""

import faiss
import numpy as np
import pytest

from reactvl.manifest import ReactvlError
from reactvl.search.building import add, build, merge, trained, training_id, training_sample
from reactvl.search.exact import top_k
from reactvl.search.index import above, load, save, search
from reactvl.search.kinds import NAMED, factory_of
from reactvl.search.knobs import apply, knob

FACTORIES = (
    *(factory_of(kind, 4000) for kind in NAMED),
    "IVF60,SQ4",
    "IVF60,RaBitQ",
    "PCA16,IVF60,SQ8",
    "IVF60_HNSW8,SQ8",
    "IDMap,Flat",
    "HNSW16",
)


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
    found, truth = search(build(parts, "Flat"), queries, parts, 20), top_k(queries, parts, 20)
    assert np.array_equal(found.row, truth.row)
    assert np.array_equal(found.score, truth.score)


def test_exact_search_agrees_with_faiss_alone(pool):
    parts, queries = pool
    index = faiss.IndexFlatIP(32)
    index.add(np.concatenate(parts).astype(np.float32))
    scores, _ = index.search(queries, 20)
    assert np.allclose(top_k(queries, parts, 20).score.reshape(120, 20), scores, atol=1e-5)


@pytest.mark.parametrize("factory", FACTORIES)
def test_every_kind_re_ranked_from_all_its_rows_is_exact(pool, factory):
    """Searched in every list, and with every candidate re-scored, any code gives exact search's rows and scores."""
    parts, queries = pool
    index = build(parts, factory, seed=1)
    found = search(index, queries[:20], parts, 10, width=knob(index)[1] or None, refine=400)
    truth = top_k(queries[:20], parts, 10)
    if knob(index)[0] != "efSearch":
        assert np.array_equal(found.row, truth.row)
        assert np.array_equal(found.score, truth.score)
    else:
        assert (found.score == truth.score).mean() > 0.99


def test_re_ranking_makes_up_for_coarse_codes(pool):
    parts, queries = pool
    index = build(parts, "IVF60,RaBitQ")
    truth = set(
        zip(
            *(column.tolist() for column in (top_k(queries, parts, 10).query, top_k(queries, parts, 10).row)),
            strict=True,
        )
    )

    def share(refine):
        found = search(index, queries, parts, 10, width=60, refine=refine)
        return len(truth & set(zip(found.query.tolist(), found.row.tolist(), strict=True))) / len(truth)

    assert share(1) < share(4) < share(16)
    assert share(16) > 0.95


@pytest.mark.parametrize("factory", FACTORIES)
def test_minus_one_is_never_a_row(pool, factory):
    """Asked for more rows than a narrow search can reach, it gives fewer."""
    parts, queries = pool
    found = search(build(parts, factory), queries, parts, 4000, width=1)
    assert found.row.min() >= 0
    assert np.isfinite(found.score).all()
    assert len(np.unique(found.query.astype(np.int64) * 4000 + found.row)) == len(found)
    if factory.startswith(("IVF", "PCA")):
        assert len(found) < 120 * 4000


def test_ids_of_minus_one_from_faiss_itself_are_dropped():
    """Two rows in one of two lists; the other list is empty, and FAISS fills up with -1."""
    keys = np.array([[1, 0], [0.9, 0.1]], dtype=np.float16)
    index = faiss.IndexIVFFlat(quantizer := faiss.IndexFlatIP(2), 2, 2, faiss.METRIC_INNER_PRODUCT)
    quantizer.add(np.array([[1, 0], [-1, 0]], dtype=np.float32))
    index.is_trained = True
    index.add(keys.astype(np.float32))
    asked = np.array([[1, 0], [-1, 0]], dtype=np.float32)
    assert (index.search(asked, 2)[1] == -1).any()
    found = search(index, asked, [keys], 2, width=1)
    assert found.query.tolist() == [0, 0]
    assert found.row.tolist() == [0, 1]


@pytest.mark.parametrize("factory", FACTORIES)
def test_rows_that_are_not_finite_are_never_found(pool, factory):
    parts, queries = pool
    keys = np.concatenate(parts)
    keys[::50] = np.nan
    found = search(build([keys], factory), -queries, [keys], 2000)
    assert not (found.row % 50 == 0).any()
    assert len(found)


@pytest.mark.parametrize("factory", FACTORIES)
def test_range_search_is_numpys(pool, factory):
    parts, queries = pool
    index = build(parts, factory, seed=2)
    apply(index, knob(index)[1])
    scores = queries.astype(np.float64) @ np.concatenate(parts).astype(np.float64).T
    falling = np.sort(scores.ravel())[::-1]
    threshold = float(falling[15_000:15_002].mean())  # between two scores, so that no rounding decides
    found = above(index, queries, parts, threshold)
    pairs = set(zip(found.query.tolist(), found.row.tolist(), strict=True))
    true = set(zip(*(places.tolist() for places in np.nonzero(scores >= threshold)), strict=True))
    assert pairs <= true
    assert len(pairs) >= (0.9 if knob(index)[0] == "efSearch" else 1.0) * len(true)
    assert (np.diff(found.score)[np.diff(found.query) == 0] <= 0).all()


def test_range_search_beyond_every_score_finds_nothing(pool):
    parts, queries = pool
    found = above(build(parts, "IVF60,SQ8"), queries, parts, 1.5, width=60)
    assert len(found) == 0
    assert found.queries == 120


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_mapped_file_answers_as_the_index_in_memory(pool, factory, tmp_path):
    parts, queries = pool
    index = build(parts, factory, seed=5)
    apply(index, 7)
    save(index, tmp_path / "index.faiss")
    mapped = load(tmp_path / "index.faiss", mapped=True)
    for asked in (lambda one: search(one, queries, parts, 10), lambda one: above(one, queries, parts, 0.6)):
        here, there = asked(index), asked(mapped)
        assert np.array_equal(here.row, there.row)
        assert np.array_equal(here.score, there.score)


def test_mapping_keeps_lists_on_disk(tmp_path):
    """An index of 8 MB opened by mapping takes under a fourth of that of memory that is the process's own."""
    import subprocess
    import sys

    keys = np.random.default_rng(0).standard_normal((60_000, 128)).astype(np.float16)
    save(build([keys], "IVF64,SQ8"), tmp_path / "index.faiss")
    code = """if True:
        import sys
        from reactvl.search.index import load
        import faiss
        def own():
            return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("RssAnon")))
        before = own()
        kept = load(sys.argv[1], mapped=sys.argv[2] == "True")
        print(own() - before)
    """
    grown = [
        int(
            subprocess.run(
                [sys.executable, "-c", code, str(tmp_path / "index.faiss"), mapped],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for mapped in ("True", "False")
    ]
    assert grown[0] < 2000 < 7000 < grown[1]


@pytest.mark.parametrize("factory", ["IVF60,SQ8", "IVF60,SQfp16", "IVF60,Flat", "IVF60,RaBitQ"])
def test_rows_added_in_two_passes_are_those_that_faiss_adds(pool, factory):
    parts, _ = pool
    ours, theirs = build(parts, factory, seed=3), trained(parts, factory, seed=3)
    theirs.add(np.concatenate(parts).astype(np.float32))
    assert np.array_equal(faiss.serialize_index(ours), faiss.serialize_index(theirs))


@pytest.mark.parametrize("factory", ["IVF60,SQ8", "IVF60,RaBitQ", "IVF60,PQ16x4fs", "Flat", "SQfp16"])
def test_chunks_merge_into_the_whole(pool, factory):
    """Whatever the order they are given in, and with ids that count over all rows."""
    parts, queries = pool
    whole = build(parts, factory, seed=4)
    ranges = ((2100, 4000), (0, 900), (900, 2100))
    pieces = [(build(parts, factory, seed=4, rows=rows), rows[0], rows[1] - rows[0]) for rows in ranges]
    joined = merge(pieces)
    assert joined.ntotal == 4000
    here, there = (search(one, queries, parts, 10, width=20) for one in (whole, joined))
    assert np.array_equal(here.row, there.row)
    if "x4fs" not in factory:  # its blocks of 32 codes are padded where chunks end
        assert np.array_equal(faiss.serialize_index(whole), faiss.serialize_index(joined))


def test_what_does_not_merge(pool):
    parts, _ = pool

    def piece(first, stop, factory="IVF60,SQ8"):
        return build(parts, factory, rows=(first, stop)), first, stop - first

    with pytest.raises(ReactvlError, match="rows 1,000 to 1,200 are in none"):
        merge([piece(0, 1000), piece(1200, 4000)])
    with pytest.raises(ReactvlError, match="row 900 is in two"):
        merge([piece(0, 1000), piece(900, 4000)])
    with pytest.raises(ReactvlError, match="cannot merge"):
        merge([piece(0, 1000), (build(parts, "IVF30,SQ8", rows=(1000, 4000)), 1000, 3000)])
    with pytest.raises(ReactvlError, match="index them all at once"):
        build(parts, "HNSW16", rows=(1000, 4000))


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_grown_index_is_the_one_built_whole(pool, factory):
    """Of equal training: rows added later stand where they would have stood."""
    parts, _ = pool
    grown, whole = trained(parts, factory, seed=6), trained(parts, factory, seed=6)
    assert training_id(grown) == training_id(whole)
    add(grown, parts, 0, 1200)
    add(grown, parts, 1200, 4000)
    add(whole, parts, 0, 4000)
    if not factory.startswith("HNSW"):
        assert np.array_equal(faiss.serialize_index(grown), faiss.serialize_index(whole))
    else:  # the levels of a graph are drawn a call at a time
        assert np.array_equal(
            *(faiss.vector_to_array(faiss.downcast_index(one.storage).codes) for one in (grown, whole))
        )


@pytest.mark.parametrize("factory", [factory for factory in FACTORIES if not factory.startswith(("HNSW", "PCA"))])
def test_threads_do_not_change_the_bytes(pool, factory):
    parts, _ = pool
    one, two = (build(parts, factory, seed=7, threads=threads) for threads in (1, 2))
    assert np.array_equal(faiss.serialize_index(one), faiss.serialize_index(two))
    other = build(parts, factory, seed=8)
    if factory.startswith("IVF"):
        assert not np.array_equal(faiss.serialize_index(one), faiss.serialize_index(other))


@pytest.mark.parametrize("rows", [1, 2, 30, 100])
@pytest.mark.parametrize("kind", NAMED)
def test_small_pools(kind, rows):
    keys = np.random.default_rng(1).standard_normal((rows, 16)).astype(np.float16)
    asked = keys.astype(np.float32)
    index = build([keys], factory_of(kind, rows))
    found = search(index, asked, [keys], 5, width=knob(index)[1] or None, refine=3)
    assert np.array_equal(found.row, top_k(asked, [keys], 5).row)


def test_the_training_sample_is_a_function_of_the_seed(pool):
    parts, _ = pool
    one, same, other = (training_sample(parts, 300, seed) for seed in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    joined = {row.tobytes() for row in np.concatenate(parts)}
    assert {row.tobytes() for row in one} <= joined
    assert len({row.tobytes() for row in one}) == 300


def test_no_queries_and_no_rows(pool):
    parts, queries = pool
    index = build(parts, "IVF60,SQ8")
    assert len(search(index, queries[:0], parts, 5)) == 0
    assert len(above(index, queries[:0], parts, 0.5)) == 0


def test_what_is_refused(pool, tmp_path):
    parts, queries = pool
    (tmp_path / "junk").write_bytes(b"nothing of FAISS's")
    for mapped in (False, True):
        with pytest.raises(ReactvlError, match="FAISS cannot read it"):
            load(tmp_path / "junk", mapped=mapped)
    with pytest.raises(ReactvlError, match="no such index file"):
        load(tmp_path / "absent")
    with pytest.raises(ReactvlError, match="no vectors"):
        build([np.empty((0, 8), np.float16)], "Flat")
    with pytest.raises(ReactvlError, match="FAISS makes no such index"):
        build(parts, "lsh")
    with pytest.raises(ReactvlError, match="has 5,000 lists, but there are only 4,000 vectors"):
        build(parts, "IVF5000,SQ8")
    with pytest.raises(ReactvlError, match="index them again"):
        search(build(parts, "Flat"), queries, parts[:1], 3)
    with pytest.raises(ValueError, match="k is 0"):
        search(build(parts, "Flat"), queries, parts, 0)
    wrong = faiss.IndexIDMap(faiss.IndexFlatIP(32))
    wrong.add_with_ids(np.concatenate(parts).astype(np.float32), np.arange(4000) + 10_000)
    with pytest.raises(ReactvlError, match="ids are not row numbers"):
        search(wrong, queries, parts, 3)
    distances = faiss.IndexFlatL2(32)
    distances.add(np.concatenate(parts).astype(np.float32))
    with pytest.raises(ReactvlError, match="of distances"):
        above(distances, queries, parts, 0.5)
