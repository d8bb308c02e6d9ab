"""From the trees of a step to tiles: which rows meet which slots of the cache together."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.runtime.executor import Ints, StepRows
from treadle.runtime.sharing.trees import Run, Span, cascade, runs_of, spans_of

__all__ = ["MODES", "SLOTS", "DenseTree", "Plan", "PlannedTile", "plan", "plan_runs", "require_mode"]

SLOTS = 128
"""Slots of a block: attention adds up block by block, and what a row sums up begins anew there."""
QUERIES = 48
"""Query vectors that meet a block together."""
CHUNK = 512
"""Slots of a chunk of a node."""
MODES = ("flatten", "cascade", "node", "node_chunk", "path", "dense")
"""Ways to attend over a tree."""
EXACT = ("flatten", "cascade", "path")
"""Those in which a row's numbers are the same to the last bit, whatever it shares."""


class PlannedTile(NamedTuple):
    """Rows that meet slots of the cache together; the struct Planned of step_tiles.h."""

    first: int
    num_rows: int
    first_range: int = 0
    num_ranges: int = 0
    first_block: int = -1
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


class Plan(NamedTuple):
    """The arrays of the struct Sharing."""

    members: Ints
    segments: Ints
    ranges: Ints
    """[ranges, 2]"""
    block_starts: Ints
    pieces: Ints
    """[pieces, 5] first row and rows of the tile, layout, first slot and slots of the block."""
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

    def __init__(self, rows: StepRows, page_size: int, most_rows: int) -> None:
        self.rows, self.page_size, self.most_rows = rows, page_size, most_rows
        self.members: list[int] = []
        self.tiles: list[PlannedTile] = []
        self.ranges: list[tuple[int, int]] = []
        self.block_starts: list[Ints] = []
        self.pieces: list[Ints] = []
        self.num_starts = self.num_pieces = self.num_partials = 0
        self.partials: dict[int, list[int]] = {}
        self.dense: list[DenseTree] = []
        self.dense_pages: list[Ints] = []
        self.masks: list[npt.NDArray[np.float32]] = []
        self.most_layouts = self.most_pieces = 1
        self.longest = most_rows

    def rows_in(self, segment: int) -> range:
        starts = self.rows.row_starts
        return range(int(starts[segment]), int(starts[segment + 1]))

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

    def slots(self, span: Span, run: Run) -> tuple[int, int]:
        """Return the first slot of a span, and the one behind its last."""
        end = span.end * self.page_size
        if span.last - span.first == 1 and span.end == run.num_pages[span.first]:
            end = min(end, int(self.rows.context_lengths[run.segments[span.first]]))
        return span.begin * self.page_size, end


def plan(rows: StepRows, page_size: int, lanes: int, group: int, mode: str) -> Plan | None:
    """Plan a step, or return None where no segments share anything, or each is to stand by itself.

    Args:
        rows: Of the step.
        page_size: Tokens of a page; where no whole number of vectors fits, nothing is shared.
        lanes: Numbers of a vector.
        group: Query heads of a KV head, at most.
        mode: One of `MODES`.
    """
    most_rows = max(1, QUERIES // group)
    if mode == "path" or page_size % lanes:
        return None
    runs = runs_of(rows, most_rows)
    return plan_runs(rows, runs, page_size, most_rows, mode) if runs else None


def plan_runs(
    rows: StepRows, runs: Sequence[Run], page_size: int, most_rows: int, mode: str
) -> Plan:
    """Plan a step whose trees are known."""
    draft = _Draft(rows, page_size, most_rows)
    in_trees = {segment for run in runs for segment in run.segments}
    for segment in range(len(rows.context_lengths)):
        if segment not in in_trees:
            draft.add_apart(segment)
    for run in runs:
        if mode == "dense":
            _add_dense(draft, run)
        elif mode in ("flatten", "cascade"):
            for first, last in _tiles(draft, run):
                spans = (spans_of if mode == "flatten" else cascade)(run, first, last)
                _add_blocks(draft, run, first, last, spans)
        else:
            for span in spans_of(run, 0, len(run.segments)):
                _add_node(draft, run, span, CHUNK if mode == "node_chunk" else None)
    return _finished(draft)


def _tiles(draft: _Draft, run: Run) -> list[tuple[int, int]]:
    """Cut a run into tiles of neighbours, of as many rows as may meet slots together."""
    sizes = [len(draft.rows_in(segment)) for segment in run.segments]
    even = -(-sum(sizes) // -(-sum(sizes) // draft.most_rows))
    found, first, held = [], 0, 0
    for number, size in enumerate(sizes):
        if held and (held + size > draft.most_rows or held >= even):
            found.append((first, number))
            first, held = number, 0
        held += size
    return [*found, (first, len(sizes))]


def _add_blocks(draft: _Draft, run: Run, first: int, last: int, spans: Sequence[Span]) -> None:
    """Let some branches meet their slots block by block, each span's part of it once."""
    members = [row for n in range(first, last) for row in draft.rows_in(run.segments[n])]
    counts = [len(draft.rows_in(run.segments[n])) for n in range(first, last)]
    starts = np.concatenate([[0], np.cumsum(counts)])
    own = {(int(starts[s.first - first]), int(starts[s.last - first])) for s in spans}
    layouts, at = {}, 0
    first_range = len(draft.ranges)
    for low, high in sorted(own):
        layouts[low, high] = at
        at += high - low
        draft.ranges.append((low, high - low))
    table = np.array(
        [
            (*(low := int(starts[s.first - first]), int(starts[s.last - first])), *draft.slots(s, run))
            for s in spans
        ],
        np.int64,
    )
    layout = np.array([layouts[int(low), int(high)] for low, high, *_ in table])
    begin, end = table[:, 2], table[:, 3]
    count = (end - 1) // SLOTS - begin // SLOTS + 1
    which = np.repeat(np.arange(len(spans)), count)
    block = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    block += (begin // SLOTS)[which]
    low = np.maximum(begin[which], block * SLOTS) - block * SLOTS
    high = np.minimum(end[which], (block + 1) * SLOTS) - block * SLOTS
    pieces = np.stack(
        [table[which, 0], table[which, 1] - table[which, 0], layout[which], low, high - low], axis=1
    )
    order = np.lexsort((pieces[:, 0], low, block))
    per_block = np.bincount(block)
    block_starts = np.concatenate([[0], np.cumsum(per_block)]) + draft.num_pieces
    draft.tiles.append(
        PlannedTile(
            *(draft.take(members), len(members), first_range, len(layouts), draft.num_starts)
        )
    )
    draft.pieces.append(pieces[order].astype(np.int32))
    draft.block_starts.append(block_starts.astype(np.int32))
    draft.num_pieces += len(pieces)
    draft.num_starts += len(block_starts)
    draft.most_layouts = max(draft.most_layouts, at)
    draft.most_pieces = max(draft.most_pieces, int(per_block.max()))


def _add_node(draft: _Draft, run: Run, span: Span, chunk: int | None) -> None:
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


def _add_dense(draft: _Draft, run: Run) -> None:
    """Let all rows of a tree meet all its slots, behind a mask."""
    rows, size = draft.rows, draft.page_size
    spans = spans_of(run, 0, len(run.segments))
    starts = rows.page_starts
    pages = [
        rows.pages[starts[run.segments[s.first]] + s.begin : starts[run.segments[s.first]] + s.end]
        for s in spans
    ]
    places = np.concatenate([[0], np.cumsum([s.end - s.begin for s in spans])]) * size
    members = [r for segment in run.segments for r in draft.rows_in(segment)]
    mask = np.full((len(members), int(places[-1])), -np.inf, np.float32)
    own = np.concatenate([np.full(len(draft.rows_in(s)), n) for n, s in enumerate(run.segments)])
    for number, span in enumerate(spans):
        sees = (own >= span.first) & (own < span.last)
        for at in np.flatnonzero(sees):
            seen = _sees(rows, run.segments[own[at]], members[at], span, size)
            mask[at, places[number] : places[number + 1]] = np.where(seen, 0, -np.inf)
    first_mask = sum(one.size for one in draft.masks)
    draft.dense.append(
        DenseTree(
            draft.take(members),
            len(members),
            sum(map(len, draft.dense_pages)),
            int(places[-1]),
            first_mask,
        )
    )
    draft.dense_pages += pages
    draft.masks.append(mask.ravel())


def _sees(rows: StepRows, segment: int, row: int, span: Span, size: int) -> npt.NDArray[np.bool_]:
    """Return which slots of a span a row of a segment below it sees."""
    slot = np.arange(span.begin * size, span.end * size)
    context, stop = int(rows.context_lengths[segment]), int(rows.row_starts[segment + 1])
    prefix = -1 if rows.prefix_lengths is None else int(rows.prefix_lengths[segment])
    if rows.ancestors is None or prefix < 0:
        seen: npt.NDArray[np.bool_] = slot < context - stop + row + 1
        return seen
    bits = np.unpackbits(rows.ancestors[row].view(np.uint8), bitorder="little").astype(np.bool_)
    behind = np.clip(slot - prefix, 0, len(bits) - 1)
    return (slot < prefix) | (bits[behind] & (slot >= prefix) & (slot < context))


def _finished(draft: _Draft) -> Plan:
    rows = draft.rows
    num_rows = len(rows.tokens)
    segments = np.repeat(np.arange(len(rows.context_lengths)), np.diff(rows.row_starts))
    partial_starts, partials = None, []
    if draft.partials:
        own = [draft.partials.get(row, []) for row in range(num_rows)]
        partial_starts = np.concatenate([[0], np.cumsum([len(one) for one in own])])
        partials = [number for one in own for number in one]
    return Plan(
        _ints(draft.members),
        _ints(segments),
        _ints(draft.ranges).reshape(-1, 2),
        _joined(draft.block_starts),
        _joined(draft.pieces).reshape(-1, 5),
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
