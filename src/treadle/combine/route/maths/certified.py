"""What a mean over a sample lets one claim of all questions, at a stated chance of being wrong.

Fixed-sequence testing: hypotheses in an order that was settled without the sample, each at the full
level, until one stands. All that fell before hold together with that level (Learn then Test:
Angelopoulos, Bates, Candes, Jordan and Lei, 2021, https://arxiv.org/abs/2110.01052, sections 2 and
3.2).
"""

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["certified", "chance"]


def chance(mean: float, count: int, bound: float) -> float:
    """Return how likely such a mean, or a lower one, is where the expectation is above a bound.

    The Hoeffding-Bentkus p-value of values in 0..1, drawn independently: the least of
    exp(-n KL(mean, bound)) and e P(Binomial(n, bound) <= ceil(n mean)).

    Args:
        mean: Of the sample.
        count: Values in it.
        bound: On the expectation.
    """
    if bound >= 1:
        return 0.0
    if bound <= 0 or mean >= bound or not count:
        return 1.0
    hoeffding = math.exp(-count * _divergence(mean, bound))
    bentkus = math.e * _binomial(math.ceil(count * mean - 1e-9), count, bound)
    return min(1.0, hoeffding, bentkus)


def certified(means: Sequence[float], count: int, bound: float, level: float) -> int:
    """Return how many of the first means certify that their expectations keep the bound.

    All of these keep it together, but for the chance `level`.
    """
    for place, mean in enumerate(means):
        if chance(mean, count, bound) > level:
            return place
    return len(means)


def _divergence(mean: float, bound: float) -> float:
    """Return the Kullback-Leibler divergence of two coins, in nats."""
    found = 0.0
    for left, right in ((mean, bound), (1 - mean, 1 - bound)):
        if left > 0:
            found += left * math.log(left / right)
    return found


def _binomial(most: int, count: int, chance_of_one: float) -> float:
    """Return P(Binomial(count, chance_of_one) <= most), summed from logarithms in float64."""
    hits = np.arange(min(most, count) + 1)
    ways = math.lgamma(count + 1) - np.asarray(
        [math.lgamma(hit + 1) + math.lgamma(count - hit + 1) for hit in hits]
    )
    logs = ways + hits * math.log(chance_of_one) + (count - hits) * math.log1p(-chance_of_one)
    return float(min(1.0, np.exp(logs).sum()))
