"""What attention moves in a step: bytes of keys and values, and of what is written on the way.

Two conventions stand side by side. *Exact* counts what our kernels read and write: a node once for
every tile of query rows that meets it, keys and values in the type and the heads that the cache
has, everything else in float32. *Paper* is DeFT's own count (Yao et al. 2025, its repository):
float16, every query head as if it had its keys and values, a block once however many queries.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from treadle.runtime.executor import StepRows
from treadle.runtime.sharing.plan import CHUNK, QUERIES, SLOTS, SharingPlan

__all__ = ["AttentionShape", "CountedNode", "SlotsRead", "Traffic", "slots_read", "traffic"]

_FLOAT, _HALF = 4, 2
_PASSES = 4
"""Unfused attention writes scores, scaled scores, masked scores and weights, and reads each."""
_PAPER_PASSES_BYTES = 20
"""Of a query, key and head: three times float16 to and fro, and a softmax that reads float32."""
_MASK_BYTES = 8
"""Of a slot: 64 bits that say which queries see it."""
_PAPER_QUERIES = 32


class AttentionShape(NamedTuple):
    """The heads of a model's layers, and how their keys and values are stored."""

    heads: tuple[int, ...]
    """Query heads of each layer."""
    kv_heads: tuple[int, ...]
    dim: int
    kv_bytes: int
    """Of a key and a value of one head, with their scales."""

    @property
    def most_rows(self) -> int:
        """The rows that may meet slots together."""
        groups = [heads // kv for heads, kv in zip(self.heads, self.kv_heads, strict=True)]
        return max(1, QUERIES // max(groups))


class CountedNode(NamedTuple):
    """A node of a tree in one step."""

    num_slots: int
    num_queries: int
    """Of the branches below it."""
    parent: int = -1
    """Its place among the nodes; -1 for a root."""


class Traffic(NamedTuple):
    """Bytes that attention moves in a step, in all layers."""

    keys_values: int
    partials: int
    """Partial results, written and read."""
    masks: int
    scores: int
    """What unfused attention writes and reads of QK^T and of its softmax."""
    queries: int
    """Queries read, and outputs written."""
    peak: int
    """The most bytes of partial results, masks and scores that exist at once, in one layer."""

    @property
    def total(self) -> int:
        """All bytes that are moved."""
        return self.keys_values + self.partials + self.masks + self.scores + self.queries

    def plus(self, other: "Traffic") -> "Traffic":
        """Return the traffic of two steps; the peak is the larger one."""
        return Traffic(
            self.keys_values + other.keys_values,
            self.partials + other.partials,
            self.masks + other.masks,
            self.scores + other.scores,
            self.queries + other.queries,
            max(self.peak, other.peak),
        )


def traffic(
    mode: str,
    nodes: Sequence[CountedNode],
    num_queries: int,
    shape: AttentionShape,
    is_paper: bool = False,
) -> Traffic:
    """Count a step over a tree.

    Args:
        mode: One of `sharing.plan.MODES` but auto.
        nodes: Of the tree, in the order of a walk: parents first.
        num_queries: Rows; each of them stands in the nodes on its path.
        shape: Of the model.
        is_paper: Whether to count as the paper's repository does.
    """
    heads, dim = sum(shape.heads), shape.dim
    whole = sum(node.num_slots for node in nodes)
    slots, num_partials = _read(mode, nodes, num_queries, 10**9 if is_paper else shape.most_rows)
    if mode == "flatten":
        num_partials = _paper_partials(nodes) if is_paper else 0
    each = 2 * _HALF * dim * heads if is_paper else shape.kv_bytes * sum(shape.kv_heads)
    partial = 2 * _FLOAT * heads * (dim + (1 if is_paper else 2)) * num_partials
    masks = scores = 0
    if mode == "dense":
        numbers = num_queries * whole * heads
        scores = numbers * (_PAPER_PASSES_BYTES if is_paper else 2 * _FLOAT * _PASSES)
        masks = num_queries * whole * _HALF * len(shape.heads) if is_paper else numbers * _FLOAT
    elif mode == "flatten" and is_paper:
        masks = _MASK_BYTES * whole * len(shape.heads)
    width = _HALF if is_paper else _FLOAT
    layers = len(shape.heads)
    peak = (partial // 2 + masks + scores // (2 * _PASSES) * 2) // layers
    return Traffic(
        each * slots, partial, masks, scores, 2 * width * num_queries * heads * dim, peak
    )


def _read(
    mode: str, nodes: Sequence[CountedNode], num_queries: int, most_rows: int
) -> tuple[int, int]:
    """Return how many slots are read in a layer, and how many partial results there are."""
    if mode == "path":
        return sum(node.num_slots * node.num_queries for node in nodes), 0
    if mode == "cascade":
        shared = [node for node in nodes if node.num_queries == num_queries]
        tiles = -(-num_queries // most_rows)
        own = sum(n.num_slots * n.num_queries for n in nodes if n.num_queries < num_queries)
        return sum(node.num_slots for node in shared) * tiles + own, 0
    slots = sum(node.num_slots * -(-node.num_queries // most_rows) for node in nodes)
    if mode in ("flatten", "dense"):
        return slots, 0
    chunks = [-(-node.num_slots // CHUNK) if mode == "node_chunk" else 1 for node in nodes]
    return slots, sum(n * node.num_queries for n, node in zip(chunks, nodes, strict=True))


def _paper_partials(nodes: Sequence[CountedNode]) -> int:
    """Return the partial results of blocks of 128 slots, in which the nodes stand one by one.

    A block is met by all queries of the nodes that it has parts of; those of a node whose parent
    has a part of it, too, are among its parent's.
    """
    ends = np.cumsum([node.num_slots for node in nodes])
    total = 0
    for begin in range(0, int(ends[-1]) if len(nodes) else 0, SLOTS):
        first = int(np.searchsorted(ends, begin, side="right"))
        last = int(np.searchsorted(ends, begin + SLOTS, side="left"))
        inside = nodes[first : last + 1]
        total += sum(node.num_queries for node in inside if node.parent < first)
    return total


class SlotsRead(NamedTuple):
    """Slots whose keys and values a step reads in a KV head."""

    read: int
    by_path: int
    """What it would read if every segment read its own."""

    def minus(self, other: "SlotsRead") -> "SlotsRead":
        """Return what was read since `other` was."""
        return SlotsRead(self.read - other.read, self.by_path - other.by_path)


def slots_read(rows: StepRows, plan: SharingPlan | None, most_rows: int) -> SlotsRead:
    """Count a step that was planned; windows are not looked at."""
    counts = np.diff(rows.row_starts)
    times = -(-counts // most_rows)
    by_path = int((rows.context_lengths.astype(np.int64) * times).sum())
    if plan is None:
        return SlotsRead(by_path, by_path)
    read = int(plan.pieces[:, 4].sum())
    read += sum(tree.num_slots * -(-tree.num_rows // most_rows) for tree in plan.dense)
    for tile in plan.tiles:
        own = plan.segments[plan.members[tile.first : tile.first + tile.num_rows]]
        if not tile.num_tails:
            read += (tile.end or int(rows.context_lengths[own[0]])) - tile.begin
            continue
        tails = plan.tails[tile.first_tail : tile.first_tail + tile.num_tails]
        read += int((rows.context_lengths[own[tails[:, 0]]] - tails[:, 3]).sum())
    return SlotsRead(read, by_path)
