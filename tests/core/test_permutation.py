"""Computed shuffles: each value once, invertible, the same for ever, and no order of their own."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from treadle.core.permutation import Permutation


@given(st.integers(1, 3000), st.integers(0, 5))
def test_every_value_stands_once_and_is_found_again(size, seed):
    order = Permutation(size, seed, "rows")
    places = np.arange(size)
    found = order.at(places)
    assert sorted(found.tolist()) == places.tolist()
    assert (order.places_of(found) == places).all()


def test_any_places_are_asked_for_alone():
    order = Permutation(1 << 40, 3, "rows")
    some = np.array([0, 5, (1 << 40) - 1])
    found = order.at(some)
    assert order.at(some[1:2])[0] == found[1]
    assert (order.places_of(found) == some).all()


def test_the_order_is_that_of_every_other_machine():
    assert Permutation(10, 0, "rows 0").at(np.arange(10)).tolist() == [5, 4, 1, 3, 6, 7, 0, 8, 2, 9]


def test_seeds_and_names_give_other_orders():
    places = np.arange(1000)
    orders = [Permutation(1000, s, n).at(places) for s, n in ((0, "a"), (1, "a"), (0, "b"))]
    for one in range(3):
        for other in range(one):
            assert (orders[one] == orders[other]).sum() < 10


def test_places_are_evenly_mixed():
    found = Permutation(40_000, 7, "rows").at(np.arange(40_000))
    counts = np.histogram2d(np.arange(40_000), found, bins=20)[0]
    statistic = ((counts - 100) ** 2 / 100).sum()
    assert 250 < statistic < 480  # chi-squared of 361 degrees has 361 +- 27
    neighbours = np.abs(np.diff(found))
    assert abs(neighbours.mean() / 40_000 - 1 / 3) < 0.01
