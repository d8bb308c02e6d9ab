"""What a server did, second by second: kept here, so that a page that is opened late shows it."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Busy", "History"]

_EVERY_SECONDS = 1.0
_NUM_KEPT = 600


class Busy(NamedTuple):
    """How busy a server is at a moment."""

    tokens_generated: int
    """Since it started."""
    running: int
    waiting: int


class _Sample(NamedTuple):
    time: float
    tokens_per_second: float
    running: int
    waiting: int


class History:
    """Samples of the last ten minutes, one a second.

    It reads what the event loop owns and never waits for a model, so that it goes on while a step
    takes long.

    Args:
        look: Says how busy the server is.
        clock: Seconds since 1970.
    """

    def __init__(self, look: Callable[[], Busy], clock: Callable[[], float] = time.time) -> None:
        self._look, self._clock = look, clock
        self.started = self._last = clock()
        self._generated = 0
        self._samples: deque[_Sample] = deque(maxlen=_NUM_KEPT)

    async def keep(self) -> None:
        """Take samples until the task is cancelled."""
        while True:
            # Whole seconds since the start: a sample that came late shortens the next wait.
            late = (self._clock() - self.started) % _EVERY_SECONDS
            await asyncio.sleep(_EVERY_SECONDS - late)
            self.sample()

    def sample(self) -> None:
        """Note how busy the server is, and its rate since the last sample."""
        now, load = self._clock(), self._look()
        seconds = now - self._last
        if seconds <= 0:  # the clock was set back: what lies ahead of it is no past
            self._samples.clear()
            self._last = now
            return
        rate = max(0, load.tokens_generated - self._generated) / seconds
        self._samples.append(_Sample(now, round(rate, 2), load.running, load.waiting))
        self._last, self._generated = now, load.tokens_generated

    def since(self, moment: float) -> dict[str, list[float]]:
        """Return the samples after a moment, as a list for each of their fields."""
        found = [sample for sample in self._samples if sample.time > moment]
        return {name: [getattr(one, name) for one in found] for name in _Sample._fields}
