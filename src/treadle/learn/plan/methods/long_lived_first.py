"""Long-lived first."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from treadle.core.method import Paper
from treadle.learn.plan.base import Layout, Placed
from treadle.learn.plan.fitting import fit
from treadle.learn.plan.replay import MemoryBlock


class LongLivedFirst(Layout):
    """Place long-lived blocks first, each into the smallest hole that takes it.

    What stays longest then lies together at the arena's low end and does not part the room that
    short-lived blocks share. Of blocks with equal lives the larger comes first.

    Paper: Sekiyama et al., "Profile-guided memory optimization for deep neural networks", 2018.
    """

    name: ClassVar[str] = "long_lived_first"
    paper = Paper(
        "Profile-guided memory optimization for deep neural networks",
        2018,
        "https://arxiv.org/abs/1804.10001",
    )

    def place(self, blocks: Sequence[MemoryBlock], generator: np.random.Generator) -> Placed:
        """Return the offsets."""
        lives = [block.end - block.start for block in blocks]
        sequence = sorted(
            range(len(blocks)), key=lambda i: (-lives[i], -blocks[i].num_bytes, blocks[i].start, i)
        )
        return Placed(fit(blocks, sequence))
