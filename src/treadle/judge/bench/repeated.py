"""Timing the same work several times, by the clock on the wall and by the processors' own."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from treadle.core.result import Measurement

__all__ = ["Spent", "middle", "rates", "repeated", "waited"]

_MOST_APART = 1.2
"""Times the clocks may differ by before it is said."""


class Spent(NamedTuple):
    """Seconds of one run; what is left of one run when another is taken off has both, too."""

    wall: float
    cpu: float
    """Of all threads of this process together."""

    def minus(self, other: "Spent") -> "Spent":
        """Return what this run took beyond another."""
        return Spent(max(self.wall - other.wall, 1e-9), max(self.cpu - other.cpu, 1e-9))


def repeated(run: Callable[[], object], rounds: int, warms_up: bool = True) -> list[Spent]:
    """Return what `rounds` runs took, after one that warms up."""
    if warms_up:
        run()
    found = []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        found.append(Spent(time.perf_counter() - wall, time.process_time() - cpu))
    return found


def middle(spent: Sequence[Spent]) -> Spent:
    """Return the medians of both clocks."""
    return Spent(*(float(np.median(seconds)) for seconds in zip(*spent, strict=True)))


def rates(name: str, amount: float, spent: Sequence[Spent], unit: str) -> list[Measurement]:
    """Return amount per second of both clocks, each with the quartiles of the rounds as its ends.

    The second one, `name` with "_by_cpu", says what the work itself takes, whatever else runs here.
    """
    by_clock = ((name, f"{unit} per second"), (f"{name}_by_cpu", f"{unit} per processor second"))
    found = []
    for (called, its_unit), seconds in zip(by_clock, zip(*spent, strict=True), strict=True):
        low, median, high = np.quantile([amount / one for one in seconds], [0.25, 0.5, 0.75])
        found.append(
            Measurement(
                name=called,
                value=float(median),
                low=float(low),
                high=float(high),
                unit=its_unit,
                better="higher",
                note=f"median and quartiles of {len(spent)} rounds",
            )
        )
    return found


def waited(name: str, spent: Sequence[Spent], num_threads: int) -> str:
    """Return what is to be said where the clocks part: threads waited; "" where they hardly do."""
    wall, cpu = middle(spent)
    apart = wall * max(num_threads, 1) / cpu
    if apart <= _MOST_APART:
        return ""
    return (
        f"'{name}' took {apart:.1f} times as long by the clock as its {max(num_threads, 1)} "
        f"thread(s) worked: other work runs on this machine, or the threads wait for each other. "
        f"Repeat it on an idle machine, or quote {name}_by_cpu."
    )
