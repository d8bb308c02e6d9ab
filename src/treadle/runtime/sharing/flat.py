"""A tree laid out flat: its nodes one behind the other, and who sees which slot."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.runtime.executor import Ints, StepRows
from treadle.runtime.sharing.trees import SharedRun, Span, spans_of

__all__ = ["FlatTree", "flattened"]

Bools = npt.NDArray[np.bool_]


class FlatTree(NamedTuple):
    """All slots of a tree, each of them once, in the order of a walk: parents first."""

    members: Ints
    """[rows] of the step."""
    pages: Ints
    """Of all nodes; their slots stand page after page."""
    seen: Bools
    """[rows, slots] without what windows hide."""
    spans: list[Span]
    starts: list[int]
    """[spans + 1] the first slot of each."""


def flattened(rows: StepRows, run: SharedRun, page_size: int) -> FlatTree:
    """Lay a tree of a step out flat."""
    spans = spans_of(run, 0, len(run.segments))
    firsts = [int(rows.page_starts[run.segments[span.first]]) for span in spans]
    pages = [
        rows.pages[first + span.begin : first + span.end]
        for first, span in zip(firsts, spans, strict=True)
    ]
    starts = [0, *(np.cumsum([span.end - span.begin for span in spans]) * page_size).tolist()]
    own = [range(int(rows.row_starts[s]), int(rows.row_starts[s + 1])) for s in run.segments]
    members = [(number, row) for number, some in enumerate(own) for row in some]
    seen = np.zeros((len(members), starts[-1]), np.bool_)
    for place, (number, row) in enumerate(members):
        for span, begin, end in zip(spans, starts, starts[1:], strict=False):
            if span.first <= number < span.last:
                slot = np.arange(span.begin * page_size, span.end * page_size)
                seen[place, begin:end] = _sees(rows, run.segments[number], row, slot)
    numbers = np.asarray([row for _, row in members], np.int32)
    return FlatTree(numbers, np.concatenate(pages), seen, spans, starts)


def _sees(rows: StepRows, segment: int, row: int, slot: npt.NDArray[np.int64]) -> Bools:
    """Return which slots of its own context a row sees."""
    context, stop = int(rows.context_lengths[segment]), int(rows.row_starts[segment + 1])
    prefix = -1 if rows.prefix_lengths is None else int(rows.prefix_lengths[segment])
    if rows.ancestors is None or prefix < 0:
        seen: Bools = slot < context - stop + row + 1
        return seen
    bits = np.unpackbits(rows.ancestors[row].view(np.uint8), bitorder="little").astype(np.bool_)
    behind = np.clip(slot - prefix, 0, len(bits) - 1)
    return (slot < prefix) | (bits[behind] & (slot >= prefix) & (slot < context))
