# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False, disallow-untyped-calls=False
"""DeFT-Flatten on a GPU: blocks of a flattened tree, and the reduction along it, in Triton.

Experimental: it was tested with Triton's interpreter only, and timed nowhere. The second phase runs
over a list of each row's partial results, so that there are no atomic operations and sums have one
order (DeFT's own code takes three atomic passes).

Paper: Yao et al., DeFT: Decoding with Flash Tree-attention (2025), https://arxiv.org/abs/2404.00242.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import triton
import triton.language as tl

from treadle.runtime.sharing.flat import FlatTree

if TYPE_CHECKING:
    import torch

__all__ = ["FlatBlocks", "attend_blocks", "blocks_of"]

_QUERIES = 32
"""Rows of a block at most: their bits fit into one number beside each slot."""


class FlatBlocks(NamedTuple):
    """A flattened tree in blocks, as the kernel takes it."""

    pages: "torch.Tensor"
    """[blocks, pages]; -1 behind the last one."""
    rows: "torch.Tensor"
    """[blocks, queries] places among the tree's rows; -1 where there is none."""
    bits: "torch.Tensor"
    """[blocks, slots] which of the block's rows see a slot."""
    starts: "torch.Tensor"
    """[rows + 1] into `partials`."""
    partials: "torch.Tensor"
    """Each row's partial results: block * queries + place."""


def blocks_of(
    flat: FlatTree,
    parts: Sequence[tuple[np.ndarray, int, int]],
    page_size: int,
    device: "torch.device",
) -> FlatBlocks:
    """Lay parts of equal size (see `shared._parts`, mode flatten) out as blocks."""
    import torch

    size = max(end - begin for _, begin, end in parts)
    pages, rows, bits = [], [], []
    for own, begin, end in parts:
        members = np.flatnonzero(own)
        for at in range(0, len(members), _QUERIES):
            some = members[at : at + _QUERIES]
            table = flat.pages[begin // page_size : end // page_size]
            pages.append(np.pad(table, (0, size // page_size - len(table)), constant_values=-1))
            rows.append(np.pad(some, (0, _QUERIES - len(some)), constant_values=-1))
            powers = np.int64(1) << np.arange(len(some), dtype=np.int64)
            seen = (flat.seen[some, begin:end] * powers[:, None]).sum(axis=0)
            bits.append(np.pad(seen, (0, size - len(seen))))
    own_partials: list[list[int]] = [[] for _ in flat.members]
    for number, some in enumerate(rows):
        for place, row in enumerate(some[some >= 0].tolist()):
            own_partials[row].append(number * _QUERIES + place)
    starts = np.cumsum([0, *map(len, own_partials)])

    def sent(values: object, dtype: type[np.generic]) -> "torch.Tensor":
        return torch.from_numpy(np.asarray(values, dtype)).to(device)

    return FlatBlocks(
        sent(pages, np.int64),
        sent(rows, np.int64),
        sent(bits, np.int64),
        sent(starts, np.int64),
        sent([number for some in own_partials for number in some], np.int64),
    )


@triton.jit
def _meet(
    query, keys, values, positions, row_positions, pages, rows, bits, mixed, sums,
    scale, softcap, window, num_pages, kv_heads, queries,
    GROUP: tl.constexpr, DIM: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr,
    SLOTS: tl.constexpr, TALL: tl.constexpr,
):  # fmt: skip
    """Let a block's rows meet its slots in one KV head: partial values, largest score and sum."""
    block, head = tl.program_id(0), tl.program_id(1)
    line, slot, column = tl.arange(0, TALL), tl.arange(0, SLOTS), tl.arange(0, WIDTH)
    place, own = line // GROUP, line % GROUP
    is_line = place < queries
    row = tl.load(rows + block * queries + place, mask=is_line, other=-1)
    is_row, is_column = row >= 0, column < DIM
    page = tl.load(
        pages + block * num_pages + slot // SIZE, mask=slot // SIZE < num_pages, other=-1
    )
    is_slot = page >= 0
    plane = page * kv_heads + head
    from_query = (row * kv_heads * GROUP + head * GROUP + own) * DIM
    q = tl.load(
        query + from_query[:, None] + column, mask=is_row[:, None] & is_column[None, :], other=0
    )
    key_at = (plane * DIM)[None, :] * SIZE + column[:, None] * SIZE + (slot % SIZE)[None, :]
    k = tl.load(keys + key_at, mask=is_column[:, None] & is_slot[None, :], other=0)
    scores = tl.dot(q, k.to(tl.float32), input_precision="ieee") * scale
    if softcap > 0:
        half = tl.exp(-2 * scores / softcap)
        scores = softcap * (1 - half) / (1 + half)
    seen = (tl.load(bits + block * SLOTS + slot)[None, :] >> place[:, None]) & 1
    visible = (seen == 1) & is_row[:, None]
    if window > 0:
        held = tl.load(positions + plane * SIZE + slot % SIZE, mask=is_slot, other=0)
        now = tl.load(row_positions + row, mask=is_row, other=0)
        visible = visible & (now[:, None] - held[None, :] < window)
    scores = tl.where(visible, scores, float("-inf"))
    largest = tl.max(scores, 1)
    base = tl.where(largest == float("-inf"), 0.0, largest)
    weights = tl.exp(scores - base[:, None])
    value_at = plane[:, None] * SIZE * DIM + (slot % SIZE)[:, None] * DIM + column[None, :]
    is_seen = tl.load(bits + block * SLOTS + slot) != 0
    v = tl.load(values + value_at, mask=(is_slot & is_seen)[:, None] & is_column[None, :], other=0)
    out = tl.dot(weights, v.to(tl.float32), input_precision="ieee")
    to = (block * queries + place) * kv_heads * GROUP + head * GROUP + own
    tl.store(mixed + to[:, None] * DIM + column, out, mask=is_row[:, None] & is_column[None, :])
    tl.store(sums + to * 2, largest, mask=is_row)
    tl.store(sums + to * 2 + 1, tl.sum(weights, 1), mask=is_row)


@triton.jit
def _reduce(mixed, sums, starts, partials, out, heads, DIM: tl.constexpr, WIDTH: tl.constexpr):
    """Put the partial results of a row and head together, in their order."""
    row, head = tl.program_id(0), tl.program_id(1)
    column = tl.arange(0, WIDTH)
    first, last = tl.load(starts + row), tl.load(starts + row + 1)
    most = float("-inf")
    place = first
    while place < last:
        at = tl.load(partials + place) * heads + head
        most = tl.maximum(most, tl.load(sums + at * 2))
        place += 1
    total = 0.0
    found = tl.zeros([WIDTH], tl.float32)
    place = first
    while place < last:
        at = tl.load(partials + place) * heads + head
        weight = tl.exp(tl.load(sums + at * 2) - most)
        total += weight * tl.load(sums + at * 2 + 1)
        found += weight * tl.load(mixed + at * DIM + column, mask=column < DIM, other=0)
        place += 1
    tl.store(out + (row * heads + head) * DIM + column, found / total, mask=column < DIM)


def attend_blocks(
    blocks: FlatBlocks,
    query: "torch.Tensor",
    keys: "torch.Tensor",
    values: "torch.Tensor",
    positions: "torch.Tensor",
    row_positions: "torch.Tensor",
    scale: float,
    window: int | None,
    softcap: float | None,
) -> "torch.Tensor":
    """Return the attention [rows, heads, dim] of a tree's rows, in float32.

    Args:
        blocks: Of the tree.
        query: [rows, heads, dim] float32.
        keys: [pages, kv_heads, dim, page_size] float32 or float16.
        values: [pages, kv_heads, page_size, dim]
        positions: [pages, kv_heads, page_size]
        row_positions: [rows]
        scale: Of the scores.
        window: In tokens, or None.
        softcap: Scores become softcap * tanh(score / softcap).
    """
    import torch

    num_rows, heads, dim = query.shape
    kv_heads, size = keys.shape[1], keys.shape[3]
    num_blocks, slots = blocks.bits.shape
    queries, group = blocks.rows.shape[1], heads // kv_heads
    mixed = query.new_empty((num_blocks * queries, heads, dim))
    sums = query.new_empty((num_blocks * queries, heads, 2))
    out = query.new_empty(query.shape)
    width = max(16, triton.next_power_of_2(dim))
    _meet[(num_blocks, kv_heads)](
        *(query.contiguous(), keys, values, positions, row_positions.to(torch.int64)),
        *(blocks.pages, blocks.rows, blocks.bits, mixed, sums),
        *(scale, softcap or 0.0, window or 0, blocks.pages.shape[1], kv_heads, queries),
        GROUP=group, DIM=dim, WIDTH=width, SIZE=size,
        SLOTS=slots, TALL=max(16, triton.next_power_of_2(queries * group)),
    )  # fmt: skip
    _reduce[(num_rows, heads)](
        mixed, sums, blocks.starts, blocks.partials, out, heads, DIM=dim, WIDTH=width
    )
    return out
