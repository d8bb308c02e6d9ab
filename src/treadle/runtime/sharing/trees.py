"""The trees of a step: which segments have the same pages, and where they part.

Nobody says that requests are branches of one tree: their page tables do. Branches that were forked,
and requests whose prompts begin alike, hold the same pages at the same places.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from treadle.runtime.executor import Ints, StepRows

__all__ = ["Run", "Span", "cascade", "runs_of", "spans_of"]


class Run(NamedTuple):
    """Segments that share at least their first page, in the order of a walk down the tree."""

    segments: list[int]
    shared: list[int]
    """Pages that each segment shares with the next one."""
    num_pages: list[int]
    """Pages of each segment."""


class Span(NamedTuple):
    """A node of the tree: pages that some neighbours share and no other does, or one has alone."""

    first: int
    """Number of the first of these segments in its run."""
    last: int
    """Behind the last one."""
    begin: int
    """Pages; places in the page tables."""
    end: int


def runs_of(rows: StepRows, most_rows: int) -> list[Run]:
    """Return the trees of a step that have several branches.

    Args:
        rows: Of a step; segments whose heads keep their own entries share nothing.
        most_rows: Segments of more rows stand by themselves: their rows share enough.
    """
    starts = rows.page_starts
    num_rows = np.diff(rows.row_starts)
    is_free = (num_rows <= most_rows) & (np.diff(starts) > 0)
    if rows.heads is not None:
        is_free &= rows.heads.numbers < 0
    free = np.flatnonzero(is_free)
    if len(free) < 2:
        return []
    firsts = rows.pages[starts[free]]
    if len(np.unique(firsts)) == len(firsts):
        return []
    tables = {int(s): rows.pages[starts[s] : starts[s + 1]] for s in free}
    order = sorted(tables, key=lambda segment: tables[segment].tobytes())
    found: list[Run] = []
    run = Run([order[0]], [], [len(tables[order[0]])])
    for before, segment in zip(order, order[1:], strict=False):
        shared = _num_equal(tables[before], tables[segment])
        if not shared:
            found.append(run)
            run = Run([], [], [])
        else:
            run.shared.append(shared)
        run.segments.append(segment)
        run.num_pages.append(len(tables[segment]))
    return [one for one in [*found, run] if len(one.segments) > 1]


def _num_equal(left: Ints, right: Ints) -> int:
    """Return how many pages two tables begin with in common."""
    most = min(len(left), len(right))
    apart = np.flatnonzero(left[:most] != right[:most])
    return int(apart[0]) if len(apart) else most


def spans_of(run: Run, first: int, last: int) -> list[Span]:
    """Return the nodes of the part of a run from segment number `first` to `last`.

    Parents stand before their children, so that the spans of one segment are in order.
    """
    found: list[Span] = []
    waiting = [(first, last, 0)]
    while waiting:
        low, high, begin = waiting.pop()
        inside: Sequence[int] = run.shared[low : high - 1]
        end = min(inside, default=run.num_pages[low])
        if end > begin:
            found.append(Span(low, high, begin, end))
        if high - low == 1:
            continue
        cuts = [low, *(low + n + 1 for n, shared in enumerate(inside) if shared == end), high]
        waiting += [(a, b, end) for a, b in zip(cuts, cuts[1:], strict=False)][::-1]
    return found


def cascade(run: Run, first: int, last: int) -> list[Span]:
    """Return the same in two levels: what all of them share, and the rest of each."""
    if last - first == 1:
        return [Span(first, last, 0, run.num_pages[first])]
    end = min(run.shared[first : last - 1])
    own = [Span(n, n + 1, end, run.num_pages[n]) for n in range(first, last)]
    return [Span(first, last, 0, end), *(span for span in own if span.end > end)]
