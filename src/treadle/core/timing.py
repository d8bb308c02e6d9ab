"""Clocks: one stopwatch for verbs, and paired timing for benchmarks."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple, Self

from treadle.core.errors import SettingsError

__all__ = ["PairedTiming", "Quartiles", "Stopwatch", "paired"]


class Stopwatch:
    """Takes the wall and the process CPU seconds of a `with` block.

    Inside the block the two properties give the seconds so far, after it those of the whole block.
    CPU seconds are summed over the threads of this process.
    """

    def __enter__(self) -> Self:
        self._began = _now()
        self._ended: _Instant | None = None
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = _now()

    @property
    def wall_seconds(self) -> float:
        """Seconds that passed."""
        return (self._ended or _now()).wall - self._began.wall

    @property
    def cpu_seconds(self) -> float:
        """Seconds of processor time that this process spent."""
        return (self._ended or _now()).cpu - self._began.cpu


class Quartiles(NamedTuple):
    """The middle of a sample, with the quarter below and the quarter above it."""

    lower: float
    median: float
    upper: float


class PairedTiming(NamedTuple):
    """Seconds of every round, and their ratios: above 1 the candidate is the faster one."""

    baseline_wall_seconds: tuple[float, ...]
    candidate_wall_seconds: tuple[float, ...]
    baseline_cpu_seconds: tuple[float, ...]
    candidate_cpu_seconds: tuple[float, ...]

    @property
    def wall_ratio(self) -> Quartiles:
        """How many times faster the candidate is by the clock on the wall."""
        return _ratios(self.baseline_wall_seconds, self.candidate_wall_seconds)

    @property
    def cpu_ratio(self) -> Quartiles:
        """How many times less processor time the candidate takes."""
        return _ratios(self.baseline_cpu_seconds, self.candidate_cpu_seconds)


def paired(
    baseline: Callable[[], object],
    candidate: Callable[[], object],
    *,
    rounds: int = 7,
    warmup: int = 1,
) -> PairedTiming:
    """Time two functions in turns, so that a noisy neighbour hits both alike.

    Every round runs each once; the order alternates, so that neither always inherits the other's
    cache. The caller pins the threads, equally for both.

    Args:
        baseline: What to beat.
        candidate: What is claimed to beat it.
        rounds: Timed runs of each, at least one.
        warmup: Untimed runs of each before them.
    """
    if rounds < 1 or warmup < 0:
        raise SettingsError(
            f"Paired timing found rounds={rounds} and warmup={warmup}, expected rounds >= 1 and "
            f"warmup >= 0; give at least one timed round."
        )
    for _ in range(warmup):
        baseline()
        candidate()
    first, second = [], []
    for number in range(rounds):
        if number % 2 == 0:
            first.append(_time(baseline))
            second.append(_time(candidate))
        else:
            second.append(_time(candidate))
            first.append(_time(baseline))
    return PairedTiming(
        baseline_wall_seconds=tuple(spent.wall for spent in first),
        candidate_wall_seconds=tuple(spent.wall for spent in second),
        baseline_cpu_seconds=tuple(spent.cpu for spent in first),
        candidate_cpu_seconds=tuple(spent.cpu for spent in second),
    )


class _Instant(NamedTuple):
    wall: float
    cpu: float


def _now() -> _Instant:
    return _Instant(time.perf_counter(), time.process_time())


def _time(run: Callable[[], object]) -> _Instant:
    with Stopwatch() as watch:
        run()
    return _Instant(watch.wall_seconds, watch.cpu_seconds)


def _ratios(baseline: tuple[float, ...], candidate: tuple[float, ...]) -> Quartiles:
    resolution = time.get_clock_info("process_time").resolution
    ratios = [
        max(before, resolution) / max(after, resolution)
        for before, after in zip(baseline, candidate, strict=True)
    ]
    if len(ratios) == 1:
        return Quartiles(ratios[0], ratios[0], ratios[0])
    return Quartiles(*statistics.quantiles(ratios, n=4, method="inclusive"))
