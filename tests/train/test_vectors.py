"""Vectors read from where they lie are the rows that were asked for."""

import numpy as np
import pytest

from reactvl.train.vectors import Vectors


@pytest.fixture
def matrices(tmp_path):
    """Three matrices on disk, of two dtypes, one of them empty."""
    generator, made = np.random.default_rng(0), []
    for number, (rows, dtype) in enumerate([(7, np.float16), (0, np.float16), (5, np.float32)]):
        np.save(tmp_path / f"{number}.npy", generator.standard_normal((rows, 4)).astype(dtype))
        made.append(np.load(tmp_path / f"{number}.npy", mmap_mode="r"))
    return made


def test_rows_come_in_the_order_asked_for_and_repeat(matrices):
    whole = np.concatenate([matrix.astype(np.float32) for matrix in matrices])
    joined = Vectors.joined(matrices)
    assert len(joined) == 12 and joined.width == 4
    np.testing.assert_array_equal(joined.read(), whole)
    asked = np.array([11, 0, 7, 0, 6, 3])
    np.testing.assert_array_equal(joined.read(asked), whole[asked])
    assert joined.read(asked).dtype == np.float32 and joined.read(asked[:0]).shape == (0, 4)


def test_a_choice_of_a_choice_reads_nothing_until_it_is_read(matrices):
    whole = np.concatenate([matrix.astype(np.float32) for matrix in matrices])
    chosen, again = np.array([9, 2, 2, 11, 5]), np.array([3, 0, 4])
    some = Vectors.joined(matrices)[chosen][again]
    assert all(isinstance(matrix, np.memmap) for matrix in some.matrices)
    np.testing.assert_array_equal(some.read(), whole[chosen][again])
    np.testing.assert_array_equal(some.read(np.array([2, 0])), whole[chosen][again][[2, 0]])
