"""The lowest priority number first."""

from typing import ClassVar

from treadle.core.method import Standard
from treadle.runtime.admit.base import Admission, Place, Waiting

__all__ = ["Priority"]


class Priority(Admission):
    """Let the lowest priority number in first; it may take the place of running ones."""

    name: ClassVar[str] = "priority"
    paper = Standard("static priorities with preemption, as in operating systems and vLLM")
    may_preempt: ClassVar[bool] = True

    def place(self, waiting: Waiting) -> Place:
        """Return where a request stands in the queue."""
        return (waiting.priority, waiting.is_new, waiting.number)
