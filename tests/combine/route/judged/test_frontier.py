"""Hulls and areas against what they mean."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.combine.route.judged.frontier import PricePoint, arena, average_quality, hull, swept

POINTS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda p: PricePoint(*map(float, p))),
    min_size=1,
    max_size=8,
)


def bought(points, cost):
    """Return the largest quality of a mixture of two points that costs no more."""
    best = max((p.quality for p in points if p.cost <= cost), default=-np.inf)
    for a in points:
        for b in points:
            if a.cost <= cost < b.cost:
                share = (cost - a.cost) / (b.cost - a.cost)
                best = max(best, a.quality + share * (b.quality - a.quality))
    return best


@given(POINTS)
def test_the_hull_is_what_mixtures_buy(points):
    corners = hull(points)
    costs, values = [p.cost for p in corners], [p.quality for p in corners]
    assert costs == sorted(set(costs))
    assert values == sorted(set(values))
    for cost in np.linspace(costs[0], 10, 21):
        assert np.interp(cost, costs, values) == pytest.approx(bought(points, cost))


@given(POINTS)
def test_the_average_is_the_area_below_it(points):
    corners = hull(points)
    low, high = corners[0].cost, 10.0
    fine = np.linspace(low, high, 4001)
    heights = np.interp(fine, [p.cost for p in corners], [p.quality for p in corners])
    found = average_quality(points, high)
    assert found == pytest.approx(np.trapezoid(heights, fine) / (high - low), abs=1e-2)


def test_one_price_is_its_own_quality():
    assert average_quality([PricePoint(2, 0.5), PricePoint(2, 0.7)], 2) == 0.7


def test_a_rising_rate_goes_from_the_best_to_the_cheapest():
    expected = np.asarray([[0.9, 0.5, 0.1], [0.2, 0.6, 0.4]])
    usual = np.asarray([3.0, 2.0, 1.0])
    cost, scores = np.tile(usual, (2, 1)), np.asarray([[1.0, 0, 0], [0, 1.0, 0]])
    found = swept(expected, usual, cost, scores)
    assert found[0] == PricePoint(2.5, 1.0)
    assert found[-1] == PricePoint(1.0, 0.0)


def test_the_arena_rewards_both_and_is_bounded():
    assert arena(1.0, 0.0044) == pytest.approx(1)
    assert arena(1.0, 200.0) == 0
    assert arena(0.0, 0.0044) == 0
    assert arena(0.6, 1.0) > arena(0.6, 10.0) > arena(0.5, 10.0)
    thrift = (np.log2(200) - np.log2(2.0)) / (np.log2(200) - np.log2(0.0044))
    assert arena(0.6, 2.0) == pytest.approx(1.1 * 0.6 * thrift / (0.06 + thrift))
