"""From the trees of a step to tiles: which rows meet which slots of the cache together."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.runtime.executor import Ints, StepRows
from treadle.runtime.sharing.cost import Costs
from treadle.runtime.sharing.flat import flattened
from treadle.runtime.sharing.trees import SharedRun, Span, cascade, spans_of

__all__ = [
    "EXACT",
    "MODES",
    "SLOTS",
    "DenseTree",
    "PlannedTile",
    "SharingPlan",
    "Tiling",
    "most_rows_of",
    "plan_runs",
    "worth",
]

SLOTS = 128
"""Slots of a block: attention adds up block by block, and what a row sums up begins anew there."""
QUERIES = 48
"""Query vectors that meet a block together."""
_FEW_ROWS = 4
"""So many together take hardly longer each than many do."""
CHUNK = 512
"""Slots of a chunk of a node."""
MODES = ("auto", "flatten", "cascade", "node", "node_chunk", "path", "dense")
"""Ways to attend over a tree."""
EXACT = ("auto", "flatten", "cascade", "path")
"""Those in which a row's numbers are the same to the last bit, whatever it shares."""


class PlannedTile(NamedTuple):
    """Rows that meet slots of the cache together; the struct Planned of step_tiles.h."""

    first: int
    num_rows: int
    first_range: int = 0
    num_ranges: int = 0
    first_block: int = 0
    num_blocks: int = 0
    first_tail: int = 0
    num_tails: int = 0
    begin: int = 0
    end: int = 0
    partial: int = -1


class DenseTree(NamedTuple):
    """A tree whose rows meet all of its slots; the struct Dense of step_tiles.h."""

    first: int
    num_rows: int
    first_page: int
    num_slots: int
    first_mask: int


class SharingPlan(NamedTuple):
    """The arrays of the struct Sharing."""

    members: Ints
    segments: Ints
    ranges: Ints
    """[ranges, 2]"""
    block_starts: Ints
    pieces: Ints
    """[pieces, 5] first row and rows of the tile, layout, first slot and slots of the block."""
    tails: Ints
    """[tails, 4] first row and rows of the tile, layout, first slot."""
    tiles: list[PlannedTile]
    partial_starts: Ints | None
    partials: Ints
    dense: list[DenseTree]
    dense_pages: Ints
    mask: npt.NDArray[np.float32]
    num_partials: int
    most_rows: int
    most_layouts: int
    most_pieces: int

    @property
    def dense_numbers(self) -> int:
        """The most numbers [rows, slots] that a dense tree has."""
        return max((tree.num_rows * tree.num_slots for tree in self.dense), default=0)


class _Draft:
    """A plan in the making."""

    def __init__(self, rows: StepRows, tiling: "Tiling") -> None:
        self.rows, self.tiling = rows, tiling
        self.page_size, self.most_rows = tiling.page_size, tiling.most_rows
        self.row_starts: list[int] = rows.row_starts.tolist()
        self.members: list[int] = []
        self.tiles: list[PlannedTile] = []
        self.ranges: list[tuple[int, int]] = []
        self.block_starts: list[Ints] = []
        self.pieces: list[Ints] = []
        self.tails: list[tuple[int, int, int, int]] = []
        self.num_starts = self.num_pieces = self.num_partials = 0
        self.partials: dict[int, list[int]] = {}
        self.dense: list[DenseTree] = []
        self.dense_pages: list[Ints] = []
        self.masks: list[npt.NDArray[np.float32]] = []
        self.most_layouts = self.most_pieces = 1
        self.longest = tiling.most_rows

    def rows_in(self, segment: int) -> range:
        return range(self.row_starts[segment], self.row_starts[segment + 1])

    def take(self, members: Sequence[int]) -> int:
        """Note down rows of a tile, and return where they stand."""
        first = len(self.members)
        self.members += members
        self.longest = max(self.longest, len(members))
        return first

    def add_apart(self, segment: int) -> None:
        """Let the rows of a segment meet its slots by themselves."""
        own = self.rows_in(segment)
        for at in range(0, len(own), self.most_rows):
            members = own[at : at + self.most_rows]
            self.tiles.append(PlannedTile(self.take(members), len(members)))

    def slots(self, span: Span, run: SharedRun) -> tuple[int, int]:
        """Return the first slot of a span, and the one behind its last."""
        end = span.end * self.page_size
        if span.last - span.first == 1 and span.end == run.num_pages[span.first]:
            end = min(end, int(self.rows.context_lengths[run.segments[span.first]]))
        return span.begin * self.page_size, end


class Tiling(NamedTuple):
    """How rows are put together."""

    page_size: int
    """Tokens of a page."""
    most_rows: int
    """That may meet slots together."""
    multiple: int = 1
    """A tree of many branches has a multiple of so many tiles: then all threads have as much."""


def most_rows_of(group: int) -> int:
    """Return how many rows may meet slots together where a KV head has `group` query heads."""
    return max(1, QUERIES // group)


def worth(rows: StepRows, run: SharedRun, tiling: Tiling, costs: Costs, num_heads: int) -> bool:
    """Say whether a tree saves more seconds in `num_heads` KV heads than its plan costs."""
    draft = _Draft(rows, tiling)
    tiles = _tiles(draft, run)
    saved = sum(_best(draft, run, first, last, costs)[0] for first, last in tiles)
    return saved * num_heads > costs.plan_seconds(run)


def plan_runs(
    rows: StepRows,
    runs: Sequence[SharedRun],
    tiling: Tiling,
    mode: str,
    costs: Costs | None = None,
) -> SharingPlan:
    """Plan a step.

    Args:
        rows: Of the step.
        runs: Its trees.
        tiling: Of rows.
        mode: One of `MODES`, but path. A plan by one of `EXACT` holds for later steps, too, while
            the same segments share the same pages: tails end where their texts do.
        costs: By which auto chooses.
    """
    draft = _Draft(rows, tiling)
    in_trees = {segment for run in runs for segment in run.segments}
    for segment in range(len(rows.context_lengths)):
        if segment not in in_trees:
            draft.add_apart(segment)
    for run in runs:
        if mode == "dense":
            _add_dense(draft, run)
        elif mode in EXACT:
            for first, last in _tiles(draft, run):
                if mode == "auto" and costs is not None:
                    spans = _best(draft, run, first, last, costs)[1]
                else:
                    spans = (cascade if mode == "cascade" else spans_of)(run, first, last)
                _add_blocks(draft, run, first, last, spans)
        else:
            for span in spans_of(run, 0, len(run.segments)):
                _add_node(draft, run, span, CHUNK if mode == "node_chunk" else None)
    return _finished(draft)


def _best(
    draft: _Draft, run: SharedRun, first: int, last: int, costs: Costs
) -> tuple[float, list[Span]]:
    """Return the seconds that a tile saves in a KV head, and the way that saves most."""
    counts = [len(draft.rows_in(segment)) for segment in run.segments]
    ways = [spans_of(run, first, last), cascade(run, first, last)]
    saved = [costs.saved(spans, counts, draft.page_size) for spans in ways]
    # Two levels make fewer pieces; what that saves is not in the costs, and little.
    chosen = int(saved[1] >= saved[0])
    return saved[chosen], ways[chosen]


def _tiles(draft: _Draft, run: SharedRun) -> list[tuple[int, int]]:
    """Cut a run into tiles of neighbours, of as many rows as may meet slots together."""
    sizes = [len(draft.rows_in(segment)) for segment in run.segments]
    total, multiple = sum(sizes), draft.tiling.multiple
    num_tiles = -(-total // draft.most_rows)
    if total >= _FEW_ROWS * multiple:
        num_tiles = -(-num_tiles // multiple) * multiple
    even = -(-total // num_tiles)
    found, first, held = [], 0, 0
    for number, size in enumerate(sizes):
        if held and (held + size > draft.most_rows or held >= even):
            found.append((first, number))
            first, held = number, 0
        held += size
    return [*found, (first, len(sizes))]


def _add_blocks(
    draft: _Draft, run: SharedRun, first: int, last: int, spans: Sequence[Span]
) -> None:
    """Let some branches meet their slots block by block, each span's part of it once."""
    size = draft.page_size
    starts = list(accumulate((len(draft.rows_in(s)) for s in run.segments[first:last]), initial=0))
    begins = [0] * (last - first)
    shared: list[tuple[int, int, int, int]] = []
    layouts: dict[tuple[int, int], int] = {}
    for span in spans:
        own = (starts[span.first - first], starts[span.last - first])
        layouts.setdefault(own, 0)
        if span.last - span.first == 1:
            begins[span.first - first] = span.begin * size
            continue
        shared.append((*own, span.begin * size, span.end * size))
        for n in range(span.first - first, span.last - first):
            begins[n] = span.end * size
    tails = list(zip(starts, starts[1:], begins, strict=False))
    for low, high, _ in tails:
        layouts.setdefault((low, high), 0)
    first_range, at = len(draft.ranges), 0
    for low, high in layouts:
        layouts[low, high] = at
        at += high - low
        draft.ranges.append((low, high - low))
    members = [row for segment in run.segments[first:last] for row in draft.rows_in(segment)]
    pieces, per_block = _pieces(shared, layouts)
    block_starts = list(accumulate(per_block, initial=draft.num_pieces))
    draft.tiles.append(
        PlannedTile(
            *(draft.take(members), len(members), first_range, len(layouts)),
            *(draft.num_starts, len(per_block), len(draft.tails), len(tails)),
        )
    )
    draft.tails += [(low, high - low, layouts[low, high], begin) for low, high, begin in tails]
    draft.pieces.append(pieces)
    draft.block_starts.append(_ints(block_starts))
    draft.num_pieces += len(pieces)
    draft.num_starts += len(block_starts)
    draft.most_layouts = max(draft.most_layouts, at)
    draft.most_pieces = max(draft.most_pieces, max(per_block, default=0) + len(tails))


def _pieces(
    shared: Sequence[tuple[int, int, int, int]], layouts: Mapping[tuple[int, int], int]
) -> tuple[Ints, list[int]]:
    """Cut spans (first and last row, first and last slot) into blocks; returns pieces and counts.

    Those of a block stand in the order of their slots.
    """
    if not shared:
        return np.empty((0, 5), np.int32), []
    table = np.array([(*one, layouts[one[:2]]) for one in shared])
    begin, end = table[:, 2], table[:, 3]
    count = (end - 1) // SLOTS - begin // SLOTS + 1
    which = np.repeat(np.arange(len(table)), count)
    block = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    block += (begin // SLOTS)[which]
    low = np.maximum(begin[which] - block * SLOTS, 0)
    high = np.minimum(end[which] - block * SLOTS, SLOTS)
    pieces = np.stack(
        [table[which, 0], (table[:, 1] - table[:, 0])[which], table[which, 4], low, high - low], 1
    )
    order = np.lexsort((low, block))
    return pieces[order].astype(np.int32), np.bincount(block).tolist()


def _add_node(draft: _Draft, run: SharedRun, span: Span, chunk: int | None) -> None:
    """Let all rows below a node meet its slots, whole or in chunks, as partial results."""
    members = [r for n in range(span.first, span.last) for r in draft.rows_in(run.segments[n])]
    begin, end = draft.slots(span, run)
    for low in range(begin, end, chunk or end):
        high = min(end, low + chunk) if chunk else end
        for at in range(0, len(members), draft.most_rows):
            some = members[at : at + draft.most_rows]
            first, number = draft.take(some), draft.num_partials
            draft.tiles.append(PlannedTile(first, len(some), begin=low, end=high, partial=number))
            for place, row in enumerate(some):
                draft.partials.setdefault(row, []).append(number + place)
            draft.num_partials += len(some)


def _add_dense(draft: _Draft, run: SharedRun) -> None:
    """Let all rows of a tree meet all its slots, behind a mask."""
    flat = flattened(draft.rows, run, draft.page_size)
    first_page, first_mask = sum(map(len, draft.dense_pages)), sum(m.size for m in draft.masks)
    first, (num_rows, num_slots) = draft.take(flat.members.tolist()), flat.seen.shape
    draft.dense.append(DenseTree(first, num_rows, first_page, num_slots, first_mask))
    draft.dense_pages.append(flat.pages)
    draft.masks.append(np.where(flat.seen, np.float32(0), np.float32(-np.inf)).ravel())


def _finished(draft: _Draft) -> SharingPlan:
    rows = draft.rows
    num_rows = len(rows.tokens)
    segments = np.repeat(np.arange(len(rows.context_lengths)), np.diff(rows.row_starts))
    partial_starts, partials = None, []
    if draft.partials:
        own = [draft.partials.get(row, []) for row in range(num_rows)]
        partial_starts = np.concatenate([[0], np.cumsum([len(one) for one in own])])
        partials = [number for one in own for number in one]
    return SharingPlan(
        _ints(draft.members),
        _ints(segments),
        _ints(draft.ranges).reshape(-1, 2),
        _joined(draft.block_starts),
        _joined(draft.pieces).reshape(-1, 5),
        _ints(draft.tails).reshape(-1, 4),
        draft.tiles,
        None if partial_starts is None else _ints(partial_starts),
        _ints(partials),
        draft.dense,
        _joined(draft.dense_pages),
        np.concatenate(draft.masks) if draft.masks else np.empty(0, np.float32),
        draft.num_partials,
        draft.longest,
        draft.most_layouts,
        draft.most_pieces,
    )


def _ints(values: npt.ArrayLike) -> Ints:
    return np.ascontiguousarray(values, np.int32)


def _joined(parts: Sequence[Ints]) -> Ints:
    return _ints(np.concatenate(parts)) if parts else np.empty(0, np.int32)
