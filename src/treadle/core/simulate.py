"""Simulated time: a clock that moves from event to event, and a queue of what happens when.

Everything follows from the events, their order and one seed; no wall clock is read. Equal times run
in the order in which they were asked for.
"""

import heapq
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from treadle.core.errors import SettingsError
from treadle.core.seed import numpy_stream

__all__ = ["Event", "Simulation", "VirtualClock"]


class VirtualClock:
    """A clock that moves when it is told to, and never backwards."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.seconds

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass.

        Raises:
            SettingsError: They are negative, or no number.
        """
        if not 0.0 <= seconds < math.inf:
            raise SettingsError(f"Found {seconds} seconds to pass; give a number of at least 0.")
        self.seconds += seconds


class Event(NamedTuple):
    """Something that will happen; `Simulation.cancel` takes it back."""

    seconds: float
    """On the simulation's clock."""
    number: int
    """The how manieth event that was asked for: of equal times the earlier one comes first."""
    owner: int
    """Tells events of several simulations apart."""


class Simulation:
    """Runs actions in the order of their times.

    An action may take time itself, by advancing the clock (a server's step does): what was due
    meanwhile happens right after it, in its order, and sees the later time.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.clock = VirtualClock()
        self._queue: list[Event] = []
        self._actions: dict[Event, Callable[[], None]] = {}
        self._num_asked = 0

    def __len__(self) -> int:
        return len(self._actions)

    def at(self, seconds: float, action: Callable[[], None]) -> Event:
        """Let `action` happen at a time.

        Raises:
            SettingsError: The time has passed, or is no number.
        """
        if not self.clock.seconds <= seconds < math.inf:
            raise SettingsError(
                f"Found an event at {seconds} s where the clock shows {self.clock.seconds} s; give "
                f"a time that is still to come."
            )
        event = Event(float(seconds), self._num_asked, id(self))
        self._num_asked += 1
        self._actions[event] = action
        heapq.heappush(self._queue, event)
        return event

    def after(self, seconds: float, action: Callable[[], None]) -> Event:
        """Let `action` happen in so many seconds from now."""
        return self.at(self.clock.seconds + seconds, action)

    def cancel(self, event: Event) -> bool:
        """Take an event back; return whether it had still to happen in this simulation."""
        if event not in self._actions:
            return False
        del self._actions[event]
        self._queue.remove(event)
        heapq.heapify(self._queue)
        return True

    def run(self, until: float = math.inf) -> int:
        """Let everything happen that is due up to `until`, and return how many events that were.

        With a finite `until` the clock shows at least that time afterwards; what is due later stays
        in the queue.
        """
        if math.isnan(until):
            raise SettingsError("Found until=nan; give a number of seconds.")
        num_run = 0
        while self._queue and self._queue[0].seconds <= until:
            event = heapq.heappop(self._queue)
            action = self._actions.pop(event)
            self.clock.seconds = max(self.clock.seconds, event.seconds)
            action()
            num_run += 1
        if until < math.inf:
            self.clock.seconds = max(self.clock.seconds, until)
        return num_run

    def stream(self, name: str) -> np.random.Generator:
        """Return the random stream `name`, from its start; no other and no event matters."""
        return numpy_stream(self.seed, name)
