"""McNemar's exact test of paired answers."""

import math
from collections.abc import Sequence

__all__ = ["mcnemar"]


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
