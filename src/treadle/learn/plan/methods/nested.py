"""ROAM's layout: activations nest, temporaries lie above them."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from treadle.core.method import Paper
from treadle.learn.plan.base import Layout, Placed
from treadle.learn.plan.fitting import arena_of, by_size, fit, most_live
from treadle.learn.plan.replay import MemoryBlock

_MOST_PLACINGS = 200_000
"""Placings of one block that repairs may take: some ten seconds."""


class Nested(Layout):
    """Stack what the forward pass keeps for the backward pass, and place the rest around the stack.

    An activation of an early segment is born before and dies after those of later segments, so
    that activations nest like brackets: those of the outermost pair lie at address 0, the next
    above them, and the stack has no hole while it grows and shrinks. Temporaries are placed by best
    fit in the room that the stack leaves at their time. The paper builds the stack leaf by leaf in
    its subgraph tree; here the leaves' order is read off the lives (earlier birth, then later
    death), which gives the same stack without the tree. Where best fit over all blocks needs less,
    its layout is kept, as in the paper. Ours, too: while the arena is larger than what is live at
    some moment, the blocks that end at its top are placed first, and the rest again.

    Paper: Shu et al., "ROAM: memory-efficient large DNN training via optimized operator ordering
    and memory layout", 2023.
    """

    name: ClassVar[str] = "nested"
    paper = Paper(
        "ROAM: memory-efficient large DNN training via optimized operator ordering and memory "
        "layout",
        2023,
        "https://arxiv.org/abs/2310.19295",
    )

    num_repairs: Annotated[int, Field(ge=0)] = 40
    """How often what sticks out is placed first, with the stack and without."""

    def place(self, blocks: Sequence[MemoryBlock], generator: np.random.Generator) -> Placed:
        """Return the offsets of the smaller arena of the two."""
        stack, least = _stack(blocks), most_live(blocks)
        num_repairs = min(self.num_repairs, _MOST_PLACINGS // max(1, len(blocks)))
        best = fit(blocks, by_size(blocks))
        for around, num in ((stack, 0), (stack, num_repairs), ({}, num_repairs)):
            if arena_of(blocks, best) == least:
                break
            found = _repaired(blocks, around, num)
            best = min(best, found, key=lambda offsets: arena_of(blocks, offsets))
        return Placed(best)


def _repaired(
    blocks: Sequence[MemoryBlock], stack: dict[int, int], num_repairs: int
) -> tuple[int, ...]:
    """Return the best layout around `stack` of those that the repairs go through."""
    sequence, least = by_size(blocks), most_live(blocks)
    best = offsets = fit(blocks, sequence, stack)
    for _ in range(num_repairs):
        arena = arena_of(blocks, offsets)
        ends = [offset + block.num_bytes for offset, block in zip(offsets, blocks, strict=True)]
        top = [i for i in sequence if ends[i] == arena and i not in stack]
        if arena == least or not top:
            break
        sequence = top + [i for i in sequence if i not in top]
        offsets = fit(blocks, sequence, stack)
        best = min(best, offsets, key=lambda found: arena_of(blocks, found))
    return best


def _stack(blocks: Sequence[MemoryBlock]) -> dict[int, int]:
    """Return the offsets of the blocks that are there at the fullest moment and nest."""
    middle = _fullest(blocks)
    across = [i for i, block in enumerate(blocks) if block.start < middle < block.end]
    across.sort(key=lambda i: (blocks[i].start, -blocks[i].end, -blocks[i].num_bytes, i))
    offsets: dict[int, int] = {}
    top, innermost = 0, None
    for index in across:
        if innermost is None or blocks[index].end <= innermost:
            offsets[index] = top
            top += blocks[index].num_bytes
            innermost = blocks[index].end
    return offsets


def _fullest(blocks: Sequence[MemoryBlock]) -> int:
    change = np.zeros(max((block.end for block in blocks), default=0) + 2, np.int64)
    for block in blocks:
        change[block.start] += block.num_bytes
        change[block.end + 1] -= block.num_bytes
    return int(change.cumsum().argmax())
