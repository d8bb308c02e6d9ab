"""Plans of what rows share, as the native step takes them."""

import time
from collections.abc import Sequence
from math import gcd
from typing import Any

from treadle.native.pointers import structs
from treadle.runtime.cache.pages import KV_DTYPES, KeyValues
from treadle.runtime.executor import StepRows
from treadle.runtime.native_step.structs import Dense, Heads, Planned, Sharing
from treadle.runtime.sharing.account import SlotsRead, slots_read
from treadle.runtime.sharing.cost import Costs, measured
from treadle.runtime.sharing.plan import (
    EXACT,
    SharingPlan,
    Tiling,
    most_rows_of,
    plan_runs,
    worth,
)
from treadle.runtime.sharing.trees import SharedRun, runs_of

__all__ = ["NativeSharing"]


class NativeSharing:
    """Finds what the rows of each step share, and how they best meet it.

    Args:
        kernel: The native step.
        lanes: Numbers of a vector.
        heads: Of each layer.
        num_threads: That share a step.
    """

    def __init__(
        self,
        kernel: Any,  # Any: a library of ctypes
        lanes: int,
        heads: Sequence[Heads],
        num_threads: int,
    ) -> None:
        self._kernel, self._lanes = kernel, lanes
        self._group = max(one.heads // one.kv_heads for one in heads)
        self._dim, self._num_heads = heads[0].dim, sum(one.kv_heads for one in heads)
        self._most_rows = most_rows_of(self._group)
        self._multiple = num_threads // gcd(num_threads, heads[0].kv_heads)
        self._costs: dict[tuple[str, int], Costs] = {}
        self.mode = "auto"
        """One of `sharing.plan.MODES`."""
        self.plan_seconds = 0.0
        """Spent on plans so far, on the clock of the wall."""
        self.slots = SlotsRead(0, 0)
        """Read so far in each KV head, and what paths would have read; windows are not looked
        at."""
        self.last: SharingPlan | None = None
        """Of the last step; None where nothing was shared."""
        self._key: object = None
        self._found: tuple[SharingPlan, Sharing] | None = None

    def of(self, rows: StepRows, pool: KeyValues) -> Sharing | None:
        """Return how the rows of a step meet the cache together, or None for each by itself.

        Pages that no whole number of vectors fills are not shared.
        """
        begin = time.perf_counter()
        runs = []
        is_whole = pool.page_size % self._lanes == 0
        if self.mode != "path" and is_whole and len(rows.context_lengths) > 1:
            runs = runs_of(rows, self._most_rows)
        found = self._planned(rows, runs, pool) if runs else None
        self.plan_seconds += time.perf_counter() - begin
        own = slots_read(rows, None if found is None else found[0], self._most_rows)
        before = self.slots
        self.slots = SlotsRead(before.read + own.read, before.by_path + own.by_path)
        self.last = None if found is None else found[0]
        return None if found is None else found[1]

    def _planned(
        self, rows: StepRows, runs: list[SharedRun], pool: KeyValues
    ) -> tuple[SharingPlan, Sharing] | None:
        key, size, costs = None, pool.page_size, None
        tiling = Tiling(size, self._most_rows, self._multiple)
        if self.mode in EXACT:
            shared = [(run.segments, run.shared) for run in runs]
            key = (self.mode, size, pool.dtype, rows.row_starts.tobytes(), shared)
            if key == self._key:
                return self._found
        if self.mode == "auto":
            costs = self._costs_of(pool)
            own = (tiling, costs, self._num_heads)
            runs = [run for run in runs if worth(rows, run, *own)]
        self._key, self._found = key, None
        if runs:
            found = plan_runs(rows, runs, tiling, self.mode, costs)
            self._found = (found, _struct(found))
        return self._found

    def _costs_of(self, pool: KeyValues) -> Costs:
        key = (pool.dtype, pool.page_size)
        if key not in self._costs:
            dtype = list(KV_DTYPES).index(pool.dtype)
            shape = (self._group, self._dim, dtype, pool.page_size, self._most_rows)
            self._costs[key] = measured(self._kernel, *shape)
        return self._costs[key]


def _struct(found: SharingPlan) -> Sharing:
    return Sharing(
        *(found.members, found.segments, found.ranges, found.block_starts, found.pieces),
        found.tails,
        structs(Planned, [Planned(*tile) for tile in found.tiles]),
        *(found.partial_starts, found.partials),
        structs(Dense, [Dense(*tree) for tree in found.dense]),
        *(found.dense_pages, found.mask, len(found.tiles), len(found.dense), found.num_partials),
        *(found.dense_numbers, found.most_rows, found.most_layouts, found.most_pieces),
    )
