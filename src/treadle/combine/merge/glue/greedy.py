"""Growing a merge model by model, and keeping what does not make it worse."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from treadle.combine.merge.glue.base import ModelPool, Weights

__all__ = ["Order", "Shares", "by_score", "evenly", "grown", "nearest_first", "running_mean"]

Order = Callable[[Weights, list[int]], int]
"""Chooses the next candidate for a merge [models] of those that are left."""
Shares = Callable[[int], Sequence[float]]
"""What share of itself a merge may keep when a model joins, by how many have joined before."""


def grown(pool: ModelPool, order: Order, shares: Shares) -> Weights:
    """Start from the best model and take in each other one that leaves the score as good.

    Args:
        pool: The models.
        order: Who is tried next.
        shares: Of the merge so far; all are tried, and the best one counts.

    Returns:
        [1, models] weights; zero for whoever was left out, for good.
    """
    singles = pool.singles
    start = int(np.argmin(singles))
    alone = np.eye(pool.num_models)
    weights, best = alone[start], float(singles[start])
    left, num_taken = [place for place in range(pool.num_models) if place != start], 0
    while left:
        candidate = order(weights, left)
        left.remove(candidate)
        tried = [share * weights + (1 - share) * alone[candidate] for share in shares(num_taken)]
        scores = [pool.score(one[None]) for one in tried]
        place = int(np.argmin(scores))
        if scores[place] <= best:
            weights, best, num_taken = tried[place], scores[place], num_taken + 1
    found: Weights = weights[None]
    return found


def running_mean(num_taken: int) -> list[float]:
    """Give every model that is in the same weight."""
    return [(num_taken + 1) / (num_taken + 2)]


def evenly(size: int) -> Shares:
    """Try a grid of so many shares between 0 and 1."""
    grid = [place / (size + 1) for place in range(1, size + 1)]
    return lambda num_taken: grid


def by_score(pool: ModelPool) -> Order:
    """Try models in the order of what they score alone."""
    singles = pool.singles
    return lambda weights, left: min(left, key=lambda place: (singles[place], place))


def nearest_first(pool: ModelPool, toward: Literal["alike", "unlike"]) -> Order:
    """Try next whoever is most (or least) like the merge so far.

    The cosine with a merge is taken for the mean of the cosines with its parts, by their weights.
    """
    sign = -1.0 if toward == "alike" else 1.0

    def order(weights: Weights, left: list[int]) -> int:
        near = pool.alike @ weights
        return min(left, key=lambda place: (sign * near[place], place))

    return order
