"""Placing blocks one after the other: each into the smallest hole that takes it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.errors import DataError
from treadle.learn.plan.replay import MemoryBlock

__all__ = ["arena_of", "by_size", "check_layout", "fit", "most_live"]


class _Space(NamedTuple):
    """The blocks that were placed so far, in arrays that have room for all."""

    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    lows: npt.NDArray[np.int64]
    highs: npt.NDArray[np.int64]


def fit(
    blocks: Sequence[MemoryBlock], sequence: Sequence[int], fixed: dict[int, int] | None = None
) -> tuple[int, ...]:
    """Return an offset for each block, placing them in `sequence`, by best fit.

    A block goes into the smallest hole, among the blocks that are there at the same time, that
    takes it (the lowest of equal ones), and on top of all of them if none does.

    Args:
        blocks: What to place.
        sequence: Their indices in the order of placing.
        fixed: Offsets that are given.
    """
    num = len(blocks)
    space = _Space(*(np.zeros(num, np.int64) for _ in range(4)))
    offsets = [0] * num
    fixed = fixed or {}
    for count, index in enumerate([*fixed, *(i for i in sequence if i not in fixed)]):
        block = blocks[index]
        low = fixed[index] if index in fixed else _hole(space, count, block)
        offsets[index] = low
        space.starts[count], space.ends[count] = block.start, block.end
        space.lows[count], space.highs[count] = low, low + block.num_bytes
    return tuple(offsets)


def _hole(space: _Space, count: int, block: MemoryBlock) -> int:
    """Return the offset of the smallest hole that takes `block`."""
    together = (space.starts[:count] <= block.end) & (space.ends[:count] >= block.start)
    lows, highs = space.lows[:count][together], space.highs[:count][together]
    if not len(lows):
        return 0
    by_low = np.argsort(lows, kind="stable")
    tops = np.maximum.accumulate(highs[by_low])
    floors = np.concatenate(([0], tops[:-1]))
    holes = lows[by_low] - floors
    holes = np.where(holes >= block.num_bytes, holes, np.iinfo(np.int64).max)
    best = int(holes.argmin())
    return int(floors[best]) if holes[best] < np.iinfo(np.int64).max else int(tops[-1])


def by_size(blocks: Sequence[MemoryBlock]) -> list[int]:
    """Return the blocks' indices, largest first, of equal ones the longest-lived first."""
    return sorted(
        range(len(blocks)),
        key=lambda i: (-blocks[i].num_bytes, blocks[i].start - blocks[i].end, i),
    )


def arena_of(blocks: Sequence[MemoryBlock], offsets: Sequence[int]) -> int:
    """Return the bytes that a layout needs."""
    return max((o + b.num_bytes for o, b in zip(offsets, blocks, strict=True)), default=0)


def most_live(blocks: Sequence[MemoryBlock]) -> int:
    """Return the most bytes that blocks hold at one time: no arena is smaller."""
    if not blocks:
        return 0
    change = np.zeros(max(block.end for block in blocks) + 2, np.int64)
    for block in blocks:
        change[block.start] += block.num_bytes
        change[block.end + 1] -= block.num_bytes
    return int(change.cumsum().max())


def check_layout(blocks: Sequence[MemoryBlock], offsets: Sequence[int]) -> None:
    """Check that no two blocks that are there together overlap.

    Raises:
        DataError: Two do; the message names their values.
    """
    by_start = sorted(range(len(blocks)), key=lambda i: blocks[i].start)
    alive: list[int] = []
    for index in by_start:
        block, low = blocks[index], offsets[index]
        alive = [other for other in alive if blocks[other].end >= block.start]
        for other in alive:
            top = offsets[other] + blocks[other].num_bytes
            if low < top and offsets[other] < low + block.num_bytes:
                raise DataError(
                    f"The layout puts block {index} at {low} and block {other} at "
                    f"{offsets[other]}, where they overlap while both are needed (positions "
                    f"{block.start} to {blocks[other].end}); return offsets that do not."
                )
        alive.append(index)
