"""Fusions by rank against their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactvl.retrieve.fusion import RRF_K, fused, ranks


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 30), st.integers(1, 3), st.booleans())
def test_scores_are_those_of_the_definitions(seed, names, rows, modes, ties):
    generator = np.random.default_rng(seed)
    name, row = np.divmod(np.flatnonzero(generator.random(names * rows) < 0.7), rows)
    found = {f"m{mode}": generator.random(len(name)) < 0.6 for mode in range(modes)}
    strength = {mode: generator.standard_normal(len(name)) for mode in found}
    strength = {mode: np.round(values) if ties else values for mode, values in strength.items()}
    lists = {}  # (name, mode) -> rows, best first
    for asked in range(names):
        for mode in found:
            mine = np.flatnonzero(found[mode] & (name == asked)).tolist()
            mine.sort(key=lambda at, mode=mode: (-strength[mode][at], row[at]))
            lists[asked, mode] = [row[at] for at in mine]
    by_mode = {mode: ranks(name, row, strength[mode], found[mode]) for mode in found}
    union, rrf = fused("union", by_mode), fused("rrf", by_mode)
    for at in range(len(name)):
        places = [lists[name[at], mode].index(row[at]) + 1 for mode in found if row[at] in lists[name[at], mode]]
        assert union[at] == pytest.approx(1 / min(places) if places else 0)
        assert rrf[at] == pytest.approx(sum(1 / (RRF_K + place) for place in places))


def test_what_two_modes_find_beats_what_one_finds():
    """Second in both lists is ahead of third in one by any fusion, and by rrf ahead of first in one."""
    by_mode = {"t2i": np.array([1, 2, 0, 3]), "t2t": np.array([0, 2, 1, 0])}
    assert np.argsort(-fused("rrf", by_mode), kind="stable").tolist() == [1, 0, 2, 3]
    assert fused("union", by_mode).tolist() == [1, 0.5, 1, 1 / 3]


def test_no_candidates():
    none = np.empty(0, int)
    rank = ranks(none, none, np.empty(0), np.empty(0, bool))
    assert len(fused("union", {"t2i": rank})) == len(fused("rrf", {"t2i": rank})) == 0
    with pytest.raises(ValueError, match="not by ranks"):
        fused("zscore", {"t2i": rank})
