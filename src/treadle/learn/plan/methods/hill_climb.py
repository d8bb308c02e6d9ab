"""Hill climbing over the sequence of placing."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from treadle.core.method import Standard
from treadle.learn.plan.base import Layout, Placed
from treadle.learn.plan.fitting import arena_of, by_size, fit, most_live
from treadle.learn.plan.replay import MemoryBlock


class HillClimb(Layout):
    """Place what stuck out of the last layout earlier, again and again, and keep what helps.

    TVM's unified static memory planner searches in the same way: of the blocks at the arena's top
    one is drawn and changes places in the sequence with one drawn among those before it. It stops
    when the arena holds no byte more than the blocks do at some moment, since none can be smaller.
    """

    name: ClassVar[str] = "hill_climb"
    paper = Standard("TVM's unified static memory planner, algorithm hill_climb, 2022.")

    num_attempts: Annotated[int, Field(ge=0)] = 200
    """Layouts to try."""

    def place(self, blocks: Sequence[MemoryBlock], generator: np.random.Generator) -> Placed:
        """Return the offsets of the smallest arena found."""
        sequence = by_size(blocks)
        best = fit(blocks, sequence)
        least = most_live(blocks)
        for _ in range(self.num_attempts):
            arena = arena_of(blocks, best)
            if arena == least:
                break
            tried = _swapped(blocks, best, sequence, generator)
            offsets = fit(blocks, tried)
            if arena_of(blocks, offsets) <= arena:
                sequence, best = tried, offsets
        return Placed(best)


def _swapped(
    blocks: Sequence[MemoryBlock],
    offsets: Sequence[int],
    sequence: Sequence[int],
    generator: np.random.Generator,
) -> list[int]:
    """Return `sequence` with a block of the arena's top before one that now comes earlier."""
    arena = arena_of(blocks, offsets)
    top = [i for i, block in enumerate(blocks) if offsets[i] + block.num_bytes == arena]
    chosen = top[int(generator.integers(len(top)))]
    place = sequence.index(chosen)
    other = int(generator.integers(place + 1))
    tried = list(sequence)
    tried[other], tried[place] = tried[place], tried[other]
    return tried
