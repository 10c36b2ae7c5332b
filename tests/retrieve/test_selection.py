"""What selection promises, on random candidates."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactvl.retrieve.selection import (
    AMBIGUOUS,
    BELOW_MINIMUM,
    DUPLICATE,
    EVALUATION_IMAGE,
    EXCLUDED,
    FATES,
    FILTERED,
    KEPT,
    NEAR_DUPLICATE,
    OTHER_CLASS,
    OVER_BALANCE,
    OVER_CAP,
    Candidates,
    balanced_cap,
    candidate_codes,
    classes_of_names,
    fate_counts,
    fates_of_hits,
    select,
    shortfall,
)
from reactvl.search.hits import Hits

CASES = {
    "seed": st.integers(0, 2**32 - 1),
    "classes": st.integers(1, 8),
    "rows": st.integers(1, 60),
    "cap": st.integers(1, 12),
    "ties": st.booleans(),
    "serves": st.sampled_from(["one", "margin", "many"]),
}
BARS = {"excluded": EXCLUDED, "leaked": EVALUATION_IMAGE, "filtered": FILTERED, "weak": BELOW_MINIMUM}


def numbered(names: list[str]) -> np.ndarray:
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)


def random_candidates(seed: int, classes: int, rows: int, ties: bool) -> tuple[Candidates, np.ndarray]:
    """Rows of which some show one picture, some near duplicates; what is barred is barred by row."""
    generator = np.random.default_rng(seed)
    name_of_class = numbered([str(name) for name in generator.integers(0, max(1, classes - 1), classes)])
    names = int(name_of_class.max()) + 1
    name, row = np.divmod(np.flatnonzero(generator.random(names * rows) < 0.6), rows)
    score = generator.standard_normal(len(row))
    pictures = generator.integers(0, rows, rows)
    near = generator.integers(0, max(1, rows // 2), rows)[pictures]
    excluded, leaked, filtered = (generator.random((3, rows)) < 0.1)[:, row]
    return Candidates(
        name,
        row,
        np.round(score) if ties else score,
        fit=generator.random(len(row)) < 0.8,
        picture=pictures[row],
        excluded=excluded,
        weak=generator.random(len(row)) < 0.1,
        near=near[row],
        lead=generator.standard_normal(len(row)),
        leaked=leaked,
        filtered=filtered,
    ), name_of_class


def barred(candidates: Candidates, serves: str) -> np.ndarray:
    found = candidates.excluded | candidates.leaked | candidates.filtered | candidates.weak
    if serves != "many":
        found = found | ~candidates.fit
    return found | (candidates.lead < 0.5) if serves == "margin" else found


def same_picture(candidates: Candidates, at: int, serves: str) -> np.ndarray:
    """Which candidates may not be chosen beside candidate `at`."""
    alike = candidates.near == candidates.near[at]
    return alike & (candidates.name == candidates.name[at]) if serves == "many" else alike


@settings(max_examples=200, deadline=None)
@given(**CASES)
def test_cap_uniqueness_and_fates(seed, classes, rows, cap, ties, serves):
    candidates, name_of_class = random_candidates(seed, classes, rows, ties)
    chosen = select(candidates, name_of_class, cap, classes_per_pair=serves)
    kept = np.flatnonzero(chosen.fate == KEPT)

    per_class = np.bincount(chosen.class_id[kept], minlength=classes)
    assert per_class.max(initial=0) <= cap
    for at in kept:
        assert np.flatnonzero(same_picture(candidates, at, serves) & (chosen.fate == KEPT)).tolist() == [at]
    assert not barred(candidates, serves)[kept].any()
    assert np.array_equal(name_of_class[chosen.class_id[kept]], candidates.name[kept])
    for class_id in range(classes):
        mine = kept[chosen.class_id[kept] == class_id]
        by_rank = mine[np.argsort(chosen.rank[mine])]
        assert chosen.rank[by_rank].tolist() == list(range(len(mine)))
        assert (np.diff(candidates.score[by_rank]) <= 0).all()  # better pairs have better ranks
        over = (chosen.fate == OVER_CAP) & (chosen.class_id == class_id)
        assert not over.any() or len(mine) == cap  # nothing is over the cap of a class that has room

    told = np.full(len(chosen.fate), -1)
    for name in ("weak", "lead", "fit", "filtered", "leaked", "excluded"):  # the most telling reason is the last
        if name == "lead":
            told[candidates.lead < 0.5] = AMBIGUOUS if serves == "margin" else told[candidates.lead < 0.5]
        elif name == "fit":
            told[~candidates.fit] = OTHER_CLASS if serves != "many" else told[~candidates.fit]
        else:
            told[getattr(candidates, name)] = BARS[name]
    assert np.array_equal(chosen.fate[told >= 0], told[told >= 0])
    assert ((chosen.winner < 0) == (told >= 0)).all()
    assert sum(fate_counts(chosen.fate).values()) == len(chosen.fate)
    assert list(fate_counts(chosen.fate)) == list(FATES)
    assert (shortfall(chosen, classes, cap) == cap - per_class).all()


@settings(max_examples=150, deadline=None)
@given(**CASES)
def test_every_picture_goes_where_its_score_is_best(seed, classes, rows, cap, ties, serves):
    candidates, name_of_class = random_candidates(seed, classes, rows, ties)
    chosen = select(candidates, name_of_class, cap, classes_per_pair=serves)
    running = ~barred(candidates, serves)
    for at in np.flatnonzero(running):
        rivals = running & same_picture(candidates, at, serves)
        winner = chosen.winner[at]
        assert rivals[winner] and chosen.class_id[winner] >= 0  # none is lost to nobody
        assert candidates.score[winner] == candidates.score[rivals].max()
        assert (chosen.class_id[rivals] >= 0).sum() == 1
        if winner != at:
            same_row = candidates.row[winner] == candidates.row[at]
            copy = DUPLICATE if candidates.picture[winner] == candidates.picture[at] else NEAR_DUPLICATE
            assert chosen.fate[at] == (OTHER_CLASS if same_row else copy)


@settings(max_examples=100, deadline=None)
@given(**CASES)
def test_the_order_of_candidates_does_not_matter(seed, classes, rows, cap, ties, serves):
    candidates, name_of_class = random_candidates(seed, classes, rows, ties)
    picked = np.random.default_rng(seed + 1).integers(-9, 5, len(candidates.row))
    candidates = dataclasses.replace(candidates, picked=np.maximum(picked, -1))
    asked = {"classes_per_pair": serves, "balance": 1.5}
    chosen = select(candidates, name_of_class, cap, **asked)
    order = np.random.default_rng(seed).permutation(len(candidates.row))
    mixed = select(
        Candidates(*(getattr(candidates, name)[order] for name in Candidates.__annotations__)),
        name_of_class,
        cap,
        **asked,
    )
    assert np.array_equal(mixed.fate, chosen.fate[order])
    assert np.array_equal(mixed.class_id, chosen.class_id[order])
    assert np.array_equal(mixed.rank, chosen.rank[order])
    moved = mixed.winner >= 0
    assert np.array_equal(order[mixed.winner[moved]], chosen.winner[order][moved])


@settings(max_examples=100, deadline=None)
@given(**CASES, balance=st.sampled_from([1.0, 1.5, 3.0]))
def test_balance_cuts_only_the_largest(seed, classes, rows, cap, ties, serves, balance):
    candidates, name_of_class = random_candidates(seed, classes, rows, ties)
    free = select(candidates, name_of_class, cap, classes_per_pair=serves)
    even = select(candidates, name_of_class, cap, classes_per_pair=serves, balance=balance)
    before = np.bincount(free.class_id[free.fate == KEPT], minlength=classes)
    after = np.bincount(even.class_id[even.fate == KEPT], minlength=classes)
    if before.any():
        limit = min(cap, max(1, int(balance * np.median(before[before > 0]))))
        assert np.array_equal(after, np.minimum(before, limit))
    cut = free.fate != even.fate
    assert (free.fate[cut] == KEPT).all() and (even.fate[cut] == OVER_BALANCE).all()
    assert np.array_equal(free.rank, even.rank)  # who is cut are the last


def test_balanced_cap():
    assert balanced_cap(np.array([100, 10, 12, 0]), 50, 2.0) == 24  # of 50, 10 and 12
    assert balanced_cap(np.array([100, 10, 12, 0]), 15, 2.0) == 15
    assert balanced_cap(np.array([1, 1]), 10, 0.5) == 1 and balanced_cap(np.zeros(3, int), 10, 2.0) == 10


def test_what_a_pair_may_serve():
    """One row between two classes: the better one has it; with a margin neither; with many both."""
    candidates = Candidates(
        name=np.array([0, 1]),
        row=np.array([5, 5]),
        score=np.array([3.0, 2.8]),
        fit=np.array([True, False]),
        picture=np.array([9, 9]),
        excluded=np.zeros(2, bool),
        weak=np.zeros(2, bool),
        lead=np.array([0.2, -0.2]),
    )
    fates = {
        serves: [FATES[fate] for fate in select(candidates, np.arange(2), 3, classes_per_pair=serves).fate]
        for serves in ("one", "margin", "many")
    }
    assert fates == {
        "one": ["kept", "other class"],
        "margin": ["ambiguous", "other class"],
        "many": ["kept", "kept"],
    }
    small = select(candidates, np.arange(2), 3, classes_per_pair="margin", margin=0.1)
    assert small.fate.tolist() == [KEPT, OTHER_CLASS]
    for wrong in ({"classes_per_pair": "two"}, {"classes_per_pair": "margin"}):
        with pytest.raises(ValueError, match="classes_per_pair"):
            select(dataclasses.replace(candidates, lead=None), np.arange(2), 3, **wrong)


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
