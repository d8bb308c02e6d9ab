"""Timing the same work several times, by the clock on the wall and by the processors' own."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from treadle.core.result import Measurement

__all__ = ["Spent", "beyond", "lost", "middle", "rates", "repeated", "waited"]

_MOST_APART = 1.2
"""Times the clocks may differ by before it is said."""


class Spent(NamedTuple):
    """Seconds of one run; what is left of one run when another is taken off has all three, too."""

    wall: float
    cpu: float
    """Of all threads of this process together."""
    own: float
    """Of the thread that asked, which works as long as any."""

    @classmethod
    def until(cls, began: "Spent | None" = None) -> "Spent":
        """Return what the clocks show, or what passed since they showed `began`."""
        now = cls(time.perf_counter(), time.process_time(), time.thread_time())
        return now if began is None else now.minus(began)

    def minus(self, other: "Spent") -> "Spent":
        """Return what this run took beyond another."""
        return Spent(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))

    @property
    def is_something(self) -> bool:
        """Whether the clocks went on; a difference of runs may be lost in their noise."""
        return self.wall > 0 and self.cpu > 0


def repeated(run: Callable[[], object], rounds: int, warms_up: bool = True) -> list[Spent]:
    """Return what `rounds` runs took, after one that warms up."""
    if warms_up:
        run()
    found = []
    for _ in range(rounds):
        began = Spent.until()
        run()
        found.append(Spent.until(began))
    return found


def beyond(spent: Sequence[Spent], other: Spent) -> list[Spent]:
    """Return what runs took beyond another; none where half of them are lost in the noise."""
    found = [one.minus(other) for one in spent]
    real = [one for one in found if one.is_something]
    return real if 2 * len(real) > len(found) else []


def lost(name: str) -> str:
    """Return what is to be said of a rate that `beyond` has nothing of."""
    return f"'{name}' is lost in the noise of the prompt's time; ask for more new tokens."


def middle(spent: Sequence[Spent]) -> Spent:
    """Return the medians of all clocks."""
    return Spent(*(float(np.median(seconds)) for seconds in zip(*spent, strict=True)))


def rates(name: str, amount: float, spent: Sequence[Spent], unit: str) -> list[Measurement]:
    """Return amount per second of both clocks, each with the quartiles of the rounds as its ends.

    The second one, `name` with "_by_cpu", says what the work itself takes, whatever else runs here.
    """
    by_clock = (
        (name, f"{unit} per second", [one.wall for one in spent]),
        (f"{name}_by_cpu", f"{unit} per processor second", [one.cpu for one in spent]),
    )
    found = []
    for called, its_unit, seconds in by_clock:
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
    threads, (wall, cpu, own) = max(num_threads, 1), middle(spent)
    apart = wall / max(own, 1e-9)
    if cpu > _MOST_APART * wall:  # or the others never began to work, as where steps are short
        apart = max(apart, wall * threads / cpu)
    if apart <= _MOST_APART:
        return ""
    return (
        f"'{name}' took {apart:.1f} times as long by the clock as its {threads} thread(s) worked: "
        f"other work runs on this machine, or the threads wait for each other. "
        f"Repeat it on an idle machine, or quote {name}_by_cpu."
    )
