"""The trees of a step: which segments have the same pages, and where they part.

Nobody says that requests are branches of one tree: their page tables do. Branches that were forked,
and requests whose prompts begin alike, hold the same pages at the same places.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from treadle.runtime.executor import StepRows

__all__ = ["SharedRun", "Span", "cascade", "runs_of", "spans_of"]


class SharedRun(NamedTuple):
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


def runs_of(rows: StepRows, most_rows: int) -> list[SharedRun]:
    """Return the trees of a step that have several branches.

    Args:
        rows: Of a step; segments whose heads keep their own entries share nothing.
        most_rows: Segments of more rows stand by themselves: their rows share enough.
    """
    starts = rows.page_starts
    first_row = rows.row_starts
    is_free = (first_row[1:] - first_row[:-1] <= most_rows) & (starts[1:] > starts[:-1])
    if rows.heads is not None:
        is_free &= rows.heads.numbers < 0
    free = np.flatnonzero(is_free)
    if len(free) < 2:
        return []
    if len(set(rows.pages[starts[free]].tolist())) == len(free):
        return []
    low, high, pages = starts[:-1].tolist(), starts[1:].tolist(), rows.pages
    keys = {s: pages[low[s] : high[s]].tobytes() for s in free.tolist()}
    order = sorted(keys, key=keys.__getitem__)
    counts = [high[s] - low[s] for s in order]
    table = np.full((len(order), max(counts)), -1, np.int32)
    for place, (segment, count) in enumerate(zip(order, counts, strict=True)):
        table[place, :count] = pages[low[segment] : high[segment]]
    differs = np.ones((len(order) - 1, table.shape[1] + 1), np.bool_)
    np.not_equal(table[1:], table[:-1], out=differs[:, :-1])
    shared = np.minimum(differs.argmax(axis=1), counts[:-1]).tolist()
    cuts = [0, *(place + 1 for place, count in enumerate(shared) if not count), len(order)]
    return [
        SharedRun(order[a:b], shared[a : b - 1], counts[a:b])
        for a, b in itertools.pairwise(cuts)
        if b - a > 1
    ]


def spans_of(run: SharedRun, first: int, last: int) -> list[Span]:
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
        waiting += [(a, b, end) for a, b in itertools.pairwise(cuts)][::-1]
    return found


def cascade(run: SharedRun, first: int, last: int) -> list[Span]:
    """Return the same in two levels: what all of them share, and the rest of each."""
    if last - first == 1:
        return [Span(first, last, 0, run.num_pages[first])]
    end = min(run.shared[first : last - 1])
    own = [Span(n, n + 1, end, run.num_pages[n]) for n in range(first, last)]
    return [Span(first, last, 0, end), *(span for span in own if span.end > end)]
