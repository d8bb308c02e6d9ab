"""The lowest priority number first, and among equals the client that was served least."""

from typing import ClassVar

from treadle.core.method import Standard
from treadle.runtime.admit.base import Admission, Place, Waiting

__all__ = ["FairPriority"]


class FairPriority(Admission):
    """Let the lowest priority number in first, and among equals the client served least."""

    name: ClassVar[str] = "fair_priority"
    paper = Standard("static priorities, and virtual token counters (see fair) within each")
    may_preempt: ClassVar[bool] = True
    is_fair: ClassVar[bool] = True

    def place(self, waiting: Waiting) -> Place:
        """Return where a request stands in the queue."""
        return (waiting.priority, waiting.is_new, waiting.served, waiting.number)
