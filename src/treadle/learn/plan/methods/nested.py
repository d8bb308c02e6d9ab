"""ROAM's layout: activations nest, temporaries lie above them."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from treadle.core.method import Paper
from treadle.learn.plan.base import Layout, Placed
from treadle.learn.plan.fitting import arena_of, by_size, fit
from treadle.learn.plan.replay import Block


class Nested(Layout):
    """Stack what the forward pass keeps for the backward pass, and place the rest around the stack.

    An activation of an early segment is born before and dies after those of later segments, so
    that activations nest like brackets: those of the outermost pair lie at address 0, the next
    above them, and the stack has no hole while it grows and shrinks. Temporaries are placed by best
    fit in the room that the stack leaves at their time. The paper builds the stack leaf by leaf in
    its subgraph tree; here the leaves' order is read off the lives (earlier birth, then later
    death), which gives the same stack without the tree. Where best fit over all blocks needs less,
    its layout is kept, as in the paper.

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

    def place(self, blocks: Sequence[Block], generator: np.random.Generator) -> Placed:
        """Return the offsets of the smaller arena of the two."""
        sequence = by_size(blocks)
        plain = fit(blocks, sequence)
        stacked = fit(blocks, sequence, _stack(blocks))
        return Placed(min(plain, stacked, key=lambda offsets: arena_of(blocks, offsets)))


def _stack(blocks: Sequence[Block]) -> dict[int, int]:
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


def _fullest(blocks: Sequence[Block]) -> int:
    change = np.zeros(max((block.end for block in blocks), default=0) + 2, np.int64)
    for block in blocks:
        change[block.start] += block.num_bytes
        change[block.end + 1] -= block.num_bytes
    return int(change.cumsum().argmax())
