"""Plans of what rows share, as the native step takes them."""

import time

from treadle.native.pointers import structs
from treadle.runtime.executor import StepRows
from treadle.runtime.native_step.structs import Dense, Planned, Sharing
from treadle.runtime.sharing.plan import Plan, plan

__all__ = ["NativeSharing"]


class NativeSharing:
    """Finds what the rows of each step share, and how they best meet it."""

    def __init__(self, lanes: int, group: int) -> None:
        self._lanes, self._group = lanes, group
        self.mode = "flatten"
        """One of `sharing.plan.MODES`."""
        self.plan_seconds = 0.0
        """Spent on plans so far, on the clock of the wall."""
        self.last: Plan | None = None
        """Of the last step; None where nothing was shared."""

    def of(self, rows: StepRows, page_size: int) -> Sharing | None:
        """Return how the rows of a step meet the cache together, or None for each by itself."""
        begin = time.perf_counter()
        self.last = plan(rows, page_size, self._lanes, self._group, self.mode)
        found = None if self.last is None else _struct(self.last)
        self.plan_seconds += time.perf_counter() - begin
        return found


def _struct(found: Plan) -> Sharing:
    return Sharing(
        *(found.members, found.segments, found.ranges, found.block_starts, found.pieces),
        structs(Planned, [Planned(*tile) for tile in found.tiles]),
        *(found.partial_starts, found.partials),
        structs(Dense, [Dense(*tree) for tree in found.dense]),
        *(found.dense_pages, found.mask, len(found.tiles), len(found.dense), found.num_partials),
        *(found.dense_numbers, found.most_rows, found.most_layouts, found.most_pieces),
    )
