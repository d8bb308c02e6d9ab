"""Right and wrong answers, paired with those of a baseline."""

import math
from collections.abc import Sequence

from treadle.core.intervals import bootstrap_mean, wilson
from treadle.core.result import Comparison, Measurement
from treadle.judge.evaluate.base import Samples

__all__ = ["compared", "mcnemar", "share"]


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


def share(name: str, right: Sequence[float]) -> Measurement:
    """Return the share of right (1) among right and wrong (0) answers, with Wilson's interval."""
    low, high = wilson(right)
    value = sum(right) / len(right)
    return Measurement(name=name, value=value, low=low, high=high, better="higher")


def compared(samples: Samples, baseline: Samples, seed: int) -> list[Measurement]:
    """Return how the shares of right answers differ from a baseline's, with McNemar's p-value."""
    found = []
    for name, right in samples.items():
        before = baseline[name]
        differences = [a - b for a, b in zip(right, before, strict=True)]
        low, high = bootstrap_mean(differences, seed)
        found.append(
            Measurement(
                name=f"{name}_difference",
                value=math.fsum(differences) / len(differences),
                low=low,
                high=high,
                better="higher",
                comparison=Comparison(score=name, neutral=0.0),
                note=f"McNemar p = {mcnemar(right, before):.3g}",
            )
        )
    return found
