"""What it costs rows to meet slots, together and apart, as it was measured on this machine."""

import ctypes
import json
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, NamedTuple

from treadle.core.cache import note, noted
from treadle.core.hardware import cpu_model
from treadle.runtime.sharing.trees import SharedRun, Span

__all__ = ["Costs", "measured"]

_KIND, _MOST = "attention costs", 50
_NUM_SLOTS, _ROUNDS = 8192, 5
"""More than the second cache holds of a head's keys and values, so that they come from the third,
as the keys and values of a shared start do."""
_PLAN_SECONDS, _SEGMENT_SECONDS = 2e-4, 1e-5
"""Of making a plan, and of each segment in it; it serves as long as the tree stays what it is."""
_STEPS_PER_PLAN = 8


class Costs(NamedTuple):
    """Seconds of one KV head and slot, by the number of rows that meet it."""

    rows: tuple[int, ...]
    seconds: tuple[float, ...]

    def of(self, num_rows: int) -> float:
        """Return the seconds of a slot that `num_rows` rows meet together."""
        place = bisect_left(self.rows, num_rows)
        if place < len(self.rows) and self.rows[place] == num_rows:
            return self.seconds[place]
        if place == len(self.rows):
            return self.seconds[-1] * num_rows / self.rows[-1]
        (low, high), (first, last) = (
            self.rows[place - 1 : place + 1],
            self.seconds[place - 1 : place + 1],
        )
        return first + (last - first) * (num_rows - low) / (high - low)

    def saved(self, spans: Sequence[Span], num_rows: Sequence[int], page_size: int) -> float:
        """Return the seconds of one KV head that sharing these spans saves beside no sharing.

        Args:
            spans: Of a tile.
            num_rows: Of each segment of the run.
            page_size: Tokens of a page.
        """
        total = 0.0
        for span in spans:
            own = num_rows[span.first : span.last]
            apart = sum(self.of(count) for count in own)
            total += (apart - self.of(sum(own))) * (span.end - span.begin) * page_size
        return total

    def plan_seconds(self, run: SharedRun) -> float:
        """Return what a plan costs each of the steps that it serves."""
        return (_PLAN_SECONDS + _SEGMENT_SECONDS * len(run.segments)) / _STEPS_PER_PLAN


def measured(
    kernel: Any,  # Any: a library of ctypes
    group: int,
    dim: int,
    dtype: int,
    page_size: int,
    most_rows: int,
) -> Costs:
    """Return the costs of heads of a shape; what this machine measured once is remembered."""
    rows = sorted({1, *(2**n for n in range(1, 6) if 2**n < most_rows), most_rows})
    parts = [kernel._name, cpu_model(), group, dim, dtype, page_size, rows]
    key = json.dumps(parts)
    seconds = noted(_KIND, key)
    if seconds is None:
        cost = kernel.step_attention_cost
        cost.restype = ctypes.c_double
        numbers = (group, dim, dtype, page_size)
        seconds = []
        for count in rows:
            values = map(ctypes.c_int32, (*numbers, count, _NUM_SLOTS, _ROUNDS))
            seconds.append(cost(*values) / _NUM_SLOTS)
        if min(seconds) > 0:
            note(_KIND, key, seconds, _MOST)
    return Costs(tuple(rows), tuple(seconds))
