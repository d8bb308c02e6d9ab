"""Quality against cost: the hull of what a router reaches, its area, and RouterArena's score."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from treadle.combine.route.records import Doubles

__all__ = ["PricePoint", "arena", "average_quality", "hull", "swept"]

_DEAREST, _CHEAPEST = 200.0, 0.0044
"""Dollars for 1000 queries, between which RouterArena scales costs."""
_BETA = 0.1
_NUM_RATES = 25
_SPAN = 1e4
"""Between the smallest rate above 0 and the largest."""


class PricePoint(NamedTuple):
    """What answers cost and what they got, both means."""

    cost: float
    quality: float


def swept(expected: Doubles, usual: Doubles, cost: Doubles, scores: Doubles) -> list[PricePoint]:
    """Return what the router reaches when cost weighs more and more.

    A query goes to the largest expected - rate * usual cost; rates go from 0 to where cost alone
    decides.

    Args:
        expected: What the router says [questions, models].
        usual: Mean cost of each model [models], as the router knows it.
        cost: Of each answer [questions, models].
        scores: Of each answer.
    """
    spread = float(np.ptp(expected, axis=1).max())
    gaps = np.diff(np.unique(usual))
    largest = 2 * max(spread, 1e-6) / max(float(gaps.min()) if len(gaps) else 1.0, 1e-12)
    rates = [0.0, *np.geomspace(largest / _SPAN, largest, _NUM_RATES)]
    rows = np.arange(len(scores))
    found = []
    for rate in rates:
        choice = (expected - rate * usual).argmax(axis=1)
        point = PricePoint(float(cost[rows, choice].mean()), float(scores[rows, choice].mean()))
        if point not in found:
            found.append(point)
    return found


def hull(points: Sequence[PricePoint]) -> list[PricePoint]:
    """Return the corners of the largest quality that a mixture of points buys, which never falls.

    Between two corners, queries are shared out at random; whoever costs more and is no better is
    none.
    """
    corners: list[PricePoint] = []
    for point in sorted(points, key=lambda one: (one.cost, -one.quality)):
        if corners and point.quality <= corners[-1].quality:
            continue
        while len(corners) > 1 and _slope(corners[-2], point) >= _slope(corners[-2], corners[-1]):
            corners.pop()
        corners.append(point)
    return corners


def average_quality(points: Sequence[PricePoint], dearest: float) -> float:
    """Return RouterBench's AIQ: the hull's mean quality over costs up to `dearest`.

    It begins at the cheapest point and goes on flat behind the last corner. We divide by the span
    of the costs, so that a quality that is the same everywhere is its own mean.
    """
    corners = hull(points)
    costs = [one.cost for one in corners]
    values = [one.quality for one in corners]
    span = dearest - costs[0]
    if span <= 0:
        return values[-1]
    return float(np.trapezoid([*values, values[-1]], [*costs, dearest])) / span


def arena(quality: float, cost: float) -> float:
    """Return RouterArena's score of quality (0..1) and cost (dollars for 1000 queries)."""
    held = min(max(cost, _CHEAPEST), _DEAREST)
    thrift = (np.log2(_DEAREST) - np.log2(held)) / (np.log2(_DEAREST) - np.log2(_CHEAPEST))
    total = _BETA * quality + thrift
    return float((1 + _BETA) * quality * thrift / total) if total else 0.0


def _slope(first: PricePoint, second: PricePoint) -> float:
    return (second.quality - first.quality) / max(second.cost - first.cost, 1e-300)
