"""First come, first served."""

from typing import ClassVar

from treadle.core.method import Standard
from treadle.runtime.admit.base import Admission, Place, Waiting

__all__ = ["Fcfs"]


class Fcfs(Admission):
    """Let requests in as they came; those that ran before come first."""

    name: ClassVar[str] = "fcfs"
    paper = Standard("first come, first served: the order of every queue that has no other")

    def place(self, waiting: Waiting) -> Place:
        """Return where a request stands in the queue."""
        return (waiting.is_new, waiting.number)
