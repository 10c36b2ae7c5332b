"""Steps see exact permutations, from any step on."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

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
