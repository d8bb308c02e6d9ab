"""95 % intervals of means, shares and quantiles."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.seed import numpy_stream

__all__ = [
    "Interval",
    "bootstrap_mean",
    "bootstrap_mean_of_sets",
    "bootstrap_quantiles",
    "bootstrap_seeds_and_rows",
    "student_mean",
    "wilson",
]

_NUM_RESAMPLES = 2000
_Z = 1.959963984540054
_STUDENT = (
    12.706205,
    4.302653,
    3.182446,
    2.776445,
    2.570582,
    2.446912,
    2.364624,
    2.306004,
    2.262157,
)
"""Student's 97.5 % quantile for 1 to 9 degrees of freedom."""
_MOST_PICKS = 1 << 22
"""Picked examples that are held at a time: 32 MB of indices."""


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


def bootstrap_mean_of_sets(sets: Sequence[Sequence[float]], seed: int) -> Interval:
    """Return the 95 % percentile-bootstrap interval of the mean of the means of several sets.

    Examples are drawn again inside of each set (a stratified bootstrap), 2000 times: which sets
    there are, and how large, is given. Give it differences of paired values, and it is paired.
    """
    total = np.zeros(_NUM_RESAMPLES)
    for number, values in enumerate(sets):
        array = np.asarray(values, dtype=np.float64)
        generator = numpy_stream(seed, f"bootstrap of set {number}")
        picks = generator.integers(0, len(array), size=(_NUM_RESAMPLES, len(array)))
        total += array[picks].mean(axis=1) / len(sets)
    low, high = np.percentile(total, [2.5, 97.5])
    return Interval(float(low), float(high))


def bootstrap_quantiles(
    values: Sequence[float], quantiles: Sequence[float], seed: int
) -> list[Interval]:
    """Return the 95 % percentile-bootstrap interval of each quantile (0..1) of `values`.

    It resamples the examples 2000 times. The far quantiles of few examples are little more than
    their largest: below some 2000 examples the interval of the 99th percentile is wide.
    """
    array = np.sort(np.asarray(values, dtype=np.float64))
    generator = numpy_stream(seed, "bootstrap of quantiles")
    found: list[npt.NDArray[np.float64]] = []
    at_once = max(1, _MOST_PICKS // len(array))
    for start in range(0, _NUM_RESAMPLES, at_once):
        rows = min(at_once, _NUM_RESAMPLES - start)
        picks = generator.integers(0, len(array), size=(rows, len(array)))
        found.append(np.quantile(array[picks], quantiles, axis=1).T)
    low, high = np.percentile(np.concatenate(found), [2.5, 97.5], axis=0)
    return [Interval(float(a), float(b)) for a, b in zip(low, high, strict=True)]


def bootstrap_seeds_and_rows(table: npt.NDArray[np.float64], seed: int) -> Interval:
    """Return the 95 % percentile-bootstrap interval of the mean of a table [seeds, rows].

    Both axes are drawn again, 2000 times and each on its own (two-way bootstrap): the interval is
    that of other seeds on other rows. With few seeds it is too narrow, as bootstraps are. Give it
    differences of two tables of the same seeds and rows, and it is paired in both.
    """
    generator = numpy_stream(seed, "bootstrap of seeds and rows")
    seeds, rows = table.shape
    means = [
        table[generator.integers(0, seeds, seeds)][:, generator.integers(0, rows, rows)].mean()
        for _ in range(_NUM_RESAMPLES)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(low), float(high))


def student_mean(values: Sequence[float]) -> Interval:
    """Return Student's 95 % interval of the mean of at least two values, such as those of seeds.

    It takes the values for normal, and is wide where they are few, as it has to be: a bootstrap of
    two values never leaves the span between them.
    """
    array = np.asarray(values, dtype=np.float64)
    size = len(array)
    assert size > 1, "one value says nothing of how values differ"
    half = _student(size - 1) * float(array.std(ddof=1)) / math.sqrt(size)
    middle = float(array.mean())
    return Interval(middle - half, middle + half)


def _student(freedom: int) -> float:
    """Return Student's 97.5 % quantile; from 10 degrees of freedom on by its expansion in 1/n."""
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    z, n = _Z, float(freedom)
    terms = (
        z,
        (z**3 + z) / (4 * n),
        (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2),
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3),
    )
    return sum(terms)


def wilson(right: Sequence[float]) -> Interval:
    """Return Wilson's 95 % interval of a share of right (1) among right and wrong (0) answers.

    It stays open where all answers are equal, as a bootstrap cannot.
    """
    size, share, z = len(right), sum(right) / len(right), _Z
    scale = 1 + z * z / size
    middle = (share + z * z / (2 * size)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / size + z * z / (4 * size * size))
    return Interval(max(0.0, middle - half), min(1.0, middle + half))
