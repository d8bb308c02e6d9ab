"""The protocol of an admission policy: a waiting request goes in, its place comes out."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

from treadle.core.method import Method

__all__ = ["Admission", "Place", "Waiting"]

Place = tuple[float, ...]
"""Where a request stands in the queue; the smallest comes first."""


class Waiting(NamedTuple):
    """What a policy may know of a waiting request."""

    is_new: bool
    """False: it ran before and was preempted, or resumed."""
    number: int
    """Order of arrival."""
    priority: int
    """Lower comes first."""
    seconds: float
    """Since it arrived."""
    served: float
    """What its client was served so far, in weighted tokens; 0 unless the policy is fair."""
    count_cached: Callable[[], int]
    """Returns how many pages of its text are cached; costs a walk through the prefix tree."""


class Admission(Method, ABC):
    """Orders the queue. What it counts is kept in the `queue.Queue` of an engine."""

    may_preempt: ClassVar[bool] = False
    """Whether a waiting request may take the place of a running one of lower priority."""
    is_fair: ClassVar[bool] = False
    """Whether it looks at what each client was served."""

    @abstractmethod
    def place(self, waiting: Waiting) -> Place:
        """Return where a request stands in the queue."""
