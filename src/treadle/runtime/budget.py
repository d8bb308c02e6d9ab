"""The rows of one step, shared out."""

from collections.abc import Iterable

from treadle.runtime.request import Request

__all__ = ["Budget"]


class Budget:
    """Rows that are left; those of lower priority get few of them beside an urgent request."""

    def __init__(self, num_rows: int, priorities: Iterable[int], beside: int | None) -> None:
        """Begin a step.

        Args:
            num_rows: Of the step.
            priorities: Of the requests that run in it.
            beside: Rows that all of lower priority than the most urgent of them get together; None
                for as many as there are.
        """
        self.num_rows = num_rows
        self._beside = num_rows if beside is None else beside
        self._most_urgent = min(priorities, default=None)

    def left(self, request: Request) -> int:
        """Return how many rows `request` may take."""
        return min(self.num_rows, self._beside) if self._is_lower(request) else self.num_rows

    def take(self, request: Request, wanted: int) -> int:
        """Give `request` up to `wanted` rows and return how many."""
        given = min(wanted, self.left(request))
        self.num_rows -= given
        self._beside -= given if self._is_lower(request) else 0
        return given

    def _is_lower(self, request: Request) -> bool:
        return self._most_urgent is not None and request.priority > self._most_urgent
