"""Steps see exact permutations, from any step on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactvl.manifest import ReactvlError
from reactvl.train.order import Order

sizes = st.integers(1, 60)


@given(pairs=sizes, batch=sizes, seed=st.integers(0, 2**32 - 1))
def test_every_epoch_sees_every_pair_once(pairs, batch, seed):
    order = Order(pairs, batch, seed)
    steps = -(-3 * pairs // batch)
    rows, epochs = (np.concatenate(part) for part in zip(*(order.step(step) for step in range(steps)), strict=True))
    for epoch in range(3):
        assert sorted(rows[epochs == epoch]) == list(range(pairs))


@given(pairs=sizes, batch=sizes, start=st.integers(0, 30))
def test_a_step_does_not_depend_on_those_before(pairs, batch, start):
    whole = Order(pairs, batch, 7)
    seen = [whole.step(step) for step in range(start + 2)]
    again = Order(pairs, batch, 7).step(start)
    assert np.array_equal(seen[start][0], again[0])
    assert np.array_equal(seen[start][1], again[1])


def test_epochs_and_seeds_differ():
    first, second = Order(50, 50, 0).step(0)[0], Order(50, 50, 0).step(1)[0]
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, Order(50, 50, 1).step(0)[0])


def passes(order: Order, count: int) -> list[np.ndarray]:
    """The rows of the first passes, as steps give them."""
    steps = -(-order.start(count) // order.batch)
    rows = np.concatenate([order.step(step)[0] for step in range(steps)])
    return [rows[order.start(number) : order.start(number + 1)] for number in range(count)]


@given(
    repeats=st.lists(st.floats(0, 3.5), min_size=1, max_size=30).filter(lambda r: sum(r) >= 1),
    batch=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_pass_holds_floor_or_ceiling_of_each_rows_repeats_and_the_sum_is_exact(repeats, batch, seed):
    order = Order(len(repeats), batch, seed, repeats=np.array(repeats))
    total = np.zeros(len(repeats))
    for number, rows in enumerate(passes(order, 5)):
        counts = np.bincount(rows, minlength=len(repeats))
        assert (counts >= np.floor(repeats)).all() and (counts <= np.ceil(repeats)).all()
        assert np.array_equal(counts, order.counts(number))
        total += counts
        assert total.sum() == np.floor((number + 1) * order.length)


def test_fractions_are_chances():
    """Over 400 passes each row stands there as often as its fraction says, within 5 standard deviations."""
    repeats = np.array([0.1, 0.5, 0.5, 0.9, 1.25, 2.0, 0.0, 0.7])
    order = Order(8, 4, 3, repeats=repeats)
    counts = np.array([order.counts(number) for number in range(400)])
    spread = np.sqrt((repeats % 1) * (1 - repeats % 1) / 400)
    assert (np.abs(counts.mean(axis=0) - repeats) <= 5 * spread + 1e-9).all()


def test_every_showing_of_a_row_is_a_view_of_its_own():
    order = Order(7, 5, 1, repeats=np.array([1, 3, 2.5, 1, 0.5, 1, 1]))
    seen = [pair for step in range(30) for pair in zip(*(part.tolist() for part in order.step(step)), strict=True)]
    assert len(set(seen)) == len(seen)


@given(
    shards=st.lists(st.integers(0, 5), min_size=1, max_size=40),
    batch=st.integers(1, 13),
    window=st.integers(1, 4),
    doubled=st.booleans(),
)
def test_a_window_shuffles_its_shards_and_drops_and_repeats_nothing(shards, batch, window, doubled):
    shards = np.array(shards, np.int32)
    repeats = np.full(len(shards), 2.0) if doubled else None
    order = Order(len(shards), batch, 5, shards=shards, window=window, repeats=repeats)
    for number, rows in enumerate(passes(order, 3)):
        assert sorted(rows) == sorted(np.repeat(np.arange(len(shards)), 2 if doubled else 1))
        at = 0
        for some in order.windows(number):
            count = np.isin(shards, some).sum() * (2 if doubled else 1)
            assert set(shards[rows[at : at + count]]) == set(some.tolist())
            at += count
    assert len(order.windows(0)) == -(-len(set(shards.tolist())) // window)


def test_the_windows_ahead_begin_where_the_step_stands():
    shards = np.repeat(np.arange(6, dtype=np.int32), 10)
    order = Order(60, 7, 2, shards=shards, window=2)
    for step in (0, 3, 8, 9, 20):
        ahead, left = order.ahead(step), set(shards[order.step(step)[0]].tolist())
        first = set(next(ahead).tolist())
        assert shards[order.step(step)[0][0]] in first
        assert left <= first | set(next(ahead).tolist())


def test_a_step_of_every_kind_of_order_does_not_depend_on_those_before():
    shards, repeats = np.repeat(np.arange(5), 8), np.linspace(0.2, 2.2, 40)
    for options in (
        {},
        {"repeats": repeats},
        {"shards": shards, "window": 2},
        {"shards": shards, "window": 2, "repeats": repeats},
    ):
        whole = Order(40, 9, 7, **options)
        seen = [whole.step(step) for step in range(25)]
        for step in (24, 3, 11):
            again = Order(40, 9, 7, **options).step(step)
            assert all(np.array_equal(one, other) for one, other in zip(seen[step], again, strict=True))


def test_an_epoch_is_the_samples_asked_for():
    order = Order(100, 10, 0, per_epoch=40)
    assert [order.epoch(step) for step in (0, 2, 4, 10)] == [0, 0.5, 1, 2.5]
    assert sorted(np.concatenate([order.step(step)[0] for step in range(10)])) == list(range(100))  # the order goes on
    assert Order(100, 10, 0).epoch(10) == 1


def test_the_plain_order_is_the_one_of_earlier_runs():
    """A run that an earlier version began goes on in its order."""
    wanted = np.random.Generator(np.random.Philox(key=[3, 1])).permutation(50)
    assert np.array_equal(Order(50, 50, 3).step(1)[0], wanted)


@pytest.mark.parametrize("options", [{"repeats": [1, -1]}, {"repeats": [0.2, 0.2]}, {"repeats": [1]}, {"repeats": [np.nan, 1]},
                                     {"window": 2}, {"window": 0, "shards": [0, 1]}])  # fmt: skip
def test_an_order_that_cannot_be_is_refused(options):
    with pytest.raises(ReactvlError, match=r"repeats|window"):
        Order(2, 2, 0, **options)
