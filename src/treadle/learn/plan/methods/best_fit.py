"""Best fit by size."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from treadle.core.method import Standard
from treadle.learn.plan.base import Layout, Placed
from treadle.learn.plan.fitting import by_size, fit
from treadle.learn.plan.replay import MemoryBlock


class BestFit(Layout):
    """Place large blocks first, each into the smallest hole that takes it.

    XLA's heap simulator and TVM's greedy planner begin with the same rule: small blocks find room
    between large ones, large ones not between small.
    """

    name: ClassVar[str] = "best_fit"
    paper = Standard("Global best fit by decreasing size, as in XLA's HeapSimulator.")

    def place(self, blocks: Sequence[MemoryBlock], generator: np.random.Generator) -> Placed:
        """Return the offsets."""
        return Placed(fit(blocks, by_size(blocks)))
