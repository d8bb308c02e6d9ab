"""Depth first."""

from typing import ClassVar

import numpy as np

from treadle.core.method import Standard
from treadle.learn.plan.base import Order, Ordered
from treadle.learn.plan.listing import depth_first
from treadle.learn.plan.problem import Problem


class DepthFirst(Order):
    """Finish what one task needs before beginning with the next.

    Tasks that touch few bytes are taken first, as roots and as predecessors.
    """

    name: ClassVar[str] = "depth_first"
    paper = Standard("Depth-first topological order, one of the orders of PyTorch Inductor.")

    def order(self, problem: Problem, generator: np.random.Generator) -> Ordered:
        """Return the order."""
        return Ordered(tuple(depth_first(problem)))
