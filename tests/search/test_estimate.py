"""Estimates of a search's cost grow as the work does, and name a number of seconds."""

import math

from reactvl.search.estimate import exact_seconds, index_seconds, product_rate


def test_more_work_costs_more():
    small = exact_seconds(1000, 100_000, 256, 50)
    assert 0 < small < math.inf
    assert exact_seconds(2000, 100_000, 256, 50) > 1.5 * small
    assert exact_seconds(1000, 400_000, 256, 50) > 1.5 * small
    assert exact_seconds(1000, 100_000, 256, 5000) > small


def test_an_index_costs_its_rate():
    assert index_seconds(5000, 1000.0) == 5.0


def test_a_core_multiplies_at_least_ten_million_numbers_a_second():
    assert product_rate("fp32") > 1e7
