"""Timing the same work several times."""

import time
from collections.abc import Callable

import numpy as np

from treadle.core.result import Measurement

__all__ = ["rate", "repeated_seconds"]


def repeated_seconds(run: Callable[[], object], rounds: int) -> list[float]:
    """Return the wall seconds of `rounds` runs, after one that warms up."""
    run()
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return found


def rate(name: str, amount: float, seconds: list[float], unit: str) -> Measurement:
    """Return amount per second: the median, with the quartiles of the rounds as its ends."""
    low, middle, high = np.quantile([amount / second for second in seconds], [0.25, 0.5, 0.75])
    return Measurement(
        name=name,
        value=float(middle),
        low=float(low),
        high=float(high),
        unit=unit,
        better="higher",
        note=f"median and quartiles of {len(seconds)} rounds",
    )
