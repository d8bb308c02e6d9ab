"""Paired statistics: bootstrap intervals and McNemar's exact test."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from treadle.core.seed import numpy_stream

__all__ = ["Interval", "bootstrap_mean", "mcnemar", "wilson"]

_NUM_RESAMPLES = 2000


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


def bootstrap_mean(values: Sequence[float], seed: int) -> Interval:
    """Return the 95 % percentile-bootstrap interval of the mean.

    It resamples the examples 2000 times. Give it differences of paired values, and it is the paired
    bootstrap.
    """
    array = np.asarray(values, dtype=np.float64)
    generator = numpy_stream(seed, "bootstrap")
    picks = generator.integers(0, len(array), size=(_NUM_RESAMPLES, len(array)))
    means = array[picks].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(low), float(high))


def mcnemar(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the p-value that two lists of right (1) and wrong (0) answers differ by chance.

    It is exact and two-sided. Under the null the discordant pairs split like fair coins (McNemar
    1947, exact binomial form).
    """
    pairs = list(zip(first, second, strict=True))
    only_first = sum(a > b for a, b in pairs)
    only_second = sum(b > a for a, b in pairs)
    total, least = only_first + only_second, min(only_first, only_second)
    tail: float = sum(math.comb(total, k) for k in range(least + 1)) / 2**total
    return min(1.0, 2 * tail)


def wilson(right: Sequence[float]) -> Interval:
    """Return Wilson's 95 % interval of a share of right (1) among right and wrong (0) answers.

    It stays open where all answers are equal, as a bootstrap cannot.
    """
    size, share, z = len(right), sum(right) / len(right), 1.959963984540054
    scale = 1 + z * z / size
    middle = (share + z * z / (2 * size)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / size + z * z / (4 * size * size))
    return Interval(max(0.0, middle - half), min(1.0, middle + half))
