"""What selection promises, on random candidates."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from reactvl.retrieve.selection import (
    BELOW_MINIMUM,
    DUPLICATE,
    EXCLUDED,
    KEPT,
    OTHER_CLASS,
    OVER_CAP,
    Candidates,
    candidate_codes,
    classes_of_names,
    fates_of_hits,
    numbered,
    select,
)
from reactvl.search.hits import Hits

CASES = {
    "seed": st.integers(0, 2**32 - 1),
    "classes": st.integers(1, 8),
    "rows": st.integers(1, 60),
    "cap": st.integers(1, 12),
    "ties": st.booleans(),
}


def random_candidates(seed: int, classes: int, rows: int, ties: bool) -> tuple[Candidates, np.ndarray]:
    generator = np.random.default_rng(seed)
    name_of_class = numbered([str(name) for name in generator.integers(0, max(1, classes - 1), classes)])
    names = int(name_of_class.max()) + 1
    name, row = np.divmod(np.flatnonzero(generator.random(names * rows) < 0.6), rows)
    score = generator.standard_normal(len(row))
    pictures, barred = generator.integers(0, rows, rows), generator.random(rows) < 0.1
    score = np.round(score) if ties else score
    return Candidates(
        name, row, score, generator.random(len(row)) < 0.8, pictures[row], barred[row], generator.random(len(row)) < 0.1
    ), name_of_class


@settings(max_examples=200, deadline=None)
@given(**CASES)
def test_cap_uniqueness_and_fates(seed, classes, rows, cap, ties):
    candidates, name_of_class = random_candidates(seed, classes, rows, ties)
    chosen = select(candidates, name_of_class, cap)
    kept = np.flatnonzero(chosen.fate == KEPT)

    per_class = np.bincount(chosen.class_id[kept], minlength=classes)
    assert per_class.max(initial=0) <= cap
    assert len(set(candidates.picture[kept].tolist())) == len(kept)  # no picture twice, in a class or across
    assert not (candidates.excluded | candidates.weak | ~candidates.fit)[kept].any()
    assert np.array_equal(name_of_class[chosen.class_id[kept]], candidates.name[kept])
    for class_id in range(classes):
        mine = kept[chosen.class_id[kept] == class_id]
        by_rank = mine[np.argsort(chosen.rank[mine])]
        assert chosen.rank[by_rank].tolist() == list(range(len(mine)))
        assert (np.diff(candidates.score[by_rank]) <= 0).all()  # better pairs have better ranks
        over = (chosen.fate == OVER_CAP) & (chosen.class_id == class_id)
        assert not over.any() or len(mine) == cap  # nothing is over the cap of a class that has room

    assert (chosen.fate[candidates.excluded] == EXCLUDED).all()
    assert (chosen.fate[~candidates.excluded & ~candidates.fit] == OTHER_CLASS).all()
    assert (chosen.fate[~candidates.excluded & candidates.fit & candidates.weak] == BELOW_MINIMUM).all()


@settings(max_examples=100, deadline=None)
@given(**CASES)
def test_every_picture_goes_where_its_score_is_best(seed, classes, rows, cap, ties):
    candidates, name_of_class = random_candidates(seed, classes, rows, ties)
    chosen = select(candidates, name_of_class, cap)
    running = ~candidates.excluded & candidates.fit & ~candidates.weak
    for at in np.flatnonzero(chosen.class_id >= 0):
        rivals = running & (candidates.picture == candidates.picture[at])
        assert candidates.score[at] == candidates.score[rivals].max()
    for at in np.flatnonzero(chosen.fate == DUPLICATE):
        twins = running & (candidates.picture == candidates.picture[at]) & (candidates.name == candidates.name[at])
        assert (chosen.class_id[twins] >= 0).sum() == 1
    lost = running & (chosen.class_id < 0)
    assert np.isin(candidates.picture[lost], candidates.picture[chosen.class_id >= 0]).all()  # none is lost to nobody


@settings(max_examples=100, deadline=None)
@given(**CASES)
def test_the_order_of_candidates_does_not_matter(seed, classes, rows, cap, ties):
    candidates, name_of_class = random_candidates(seed, classes, rows, ties)
    chosen = select(candidates, name_of_class, cap)
    order = np.random.default_rng(seed).permutation(len(candidates.row))
    mixed = select(
        Candidates(*(getattr(candidates, name)[order] for name in Candidates.__annotations__)), name_of_class, cap
    )
    assert np.array_equal(mixed.fate, chosen.fate[order])
    assert np.array_equal(mixed.class_id, chosen.class_id[order])
    assert np.array_equal(mixed.rank, chosen.rank[order])


def test_classes_of_one_name_take_turns():
    """Two "missile" share what the name wins: neither stays empty, and no picture serves both."""
    name_of_class = numbered(["missile", "tank", "missile"])
    assert name_of_class.tolist() == [0, 1, 0]
    assert [ids.tolist() for ids in classes_of_names(name_of_class)] == [[0, 2], [1]]
    rows = np.arange(5)
    candidates = Candidates(
        np.zeros(5, int), rows, -rows.astype(float), np.ones(5, bool), rows, np.zeros(5, bool), np.zeros(5, bool)
    )
    chosen = select(candidates, name_of_class, 2)
    assert chosen.class_id.tolist() == [0, 2, 0, 2, 0]
    assert chosen.rank.tolist() == [0, 0, 1, 1, 2]
    assert chosen.fate.tolist() == [KEPT] * 4 + [OVER_CAP]


def test_fates_of_hits_follow_their_pairs():
    name_of_class, class_of_query = numbered(["a", "b", "a"]), np.array([0, 0, 1, 2])
    rows = 10
    hits = Hits(
        np.array([0, 1, 2, 3, 3], np.int32),
        np.array([4, 4, 5, 4, 9]),
        np.zeros(5, np.float32),
        np.array([0, 0, 0, 0, 1], np.int32),
        4,
    )
    able = Hits(hits.query[:4], hits.row[:4], hits.score[:4], hits.rank[:4], 4)
    codes = candidate_codes([able], name_of_class[class_of_query], rows)
    assert codes.tolist() == [4, 15]  # (a, 4), (b, 5)
    candidates = Candidates(
        *np.divmod(codes, rows), np.ones(2), np.ones(2, bool), np.array([4, 5]), *np.zeros((2, 2), bool)
    )
    fate = fates_of_hits(hits, codes, select(candidates, name_of_class, 3), class_of_query, name_of_class, rows)
    assert fate.tolist() == [KEPT, KEPT, KEPT, OTHER_CLASS, BELOW_MINIMUM]


def test_no_candidates():
    empty = np.empty(0, int)
    chosen = select(
        Candidates(empty, empty, empty.astype(float), empty.astype(bool), empty, *np.zeros((2, 0), bool)),
        np.array([0]),
        3,
    )
    assert len(chosen.fate) == 0
    assert len(candidate_codes([], np.array([0]), 5)) == 0
