"""The rows of one step, shared out."""

from collections.abc import Callable, Iterable, Sequence

from treadle.runtime.request import Request

__all__ = ["Budget", "StepBound", "beside_less_served", "beside_urgent"]


class StepBound:
    """Rows that some of the requests of a step get together."""

    def __init__(self, applies: Callable[[Request], bool], num_rows: int) -> None:
        self.applies, self.num_rows = applies, num_rows


class Budget:
    """Rows that are left, for all requests and for those that a bound applies to."""

    def __init__(self, num_rows: int, bounds: Sequence[StepBound] = ()) -> None:
        self.num_rows, self._bounds = num_rows, bounds

    def left(self, request: Request) -> int:
        """Return how many rows `request` may take."""
        return min([self.num_rows, *(bound.num_rows for bound in self._bounds_of(request))])

    def take(self, request: Request, wanted: int) -> int:
        """Give `request` up to `wanted` rows and return how many."""
        given = min(wanted, self.left(request))
        self.num_rows -= given
        for bound in self._bounds_of(request):
            bound.num_rows -= given
        return given

    def _bounds_of(self, request: Request) -> list[StepBound]:
        return [bound for bound in self._bounds if bound.applies(request)]


def beside_urgent(priorities: Iterable[int], num_rows: int) -> StepBound:
    """Bind all requests of lower priority than the most urgent one."""
    most_urgent = min(priorities, default=0)
    return StepBound(lambda request: request.priority > most_urgent, num_rows)


def beside_less_served(
    running: Sequence[Request], served: Callable[[Request], float], num_rows: int
) -> StepBound:
    """Bind the requests of clients that were served more than another one of equal priority."""
    least: dict[int, float] = {}
    for request in running:
        own = served(request)
        least[request.priority] = min(own, least.get(request.priority, own))
    return StepBound(lambda r: served(r) > least.get(r.priority, served(r)), num_rows)
