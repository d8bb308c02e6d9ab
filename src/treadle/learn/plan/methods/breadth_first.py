"""Breadth first."""

from typing import ClassVar

import numpy as np

from treadle.core.method import Standard
from treadle.learn.plan.base import Order, Ordered
from treadle.learn.plan.listing import breadth_first
from treadle.learn.plan.problem import Problem


class BreadthFirst(Order):
    """Run tasks in the order in which they become ready.

    A queue: it runs what is independent early, and keeps many values alive.
    """

    name: ClassVar[str] = "breadth_first"
    paper = Standard("Kahn, Topological sorting of large networks, CACM 5(11), 1962.")

    def order(self, problem: Problem, generator: np.random.Generator) -> Ordered:
        """Return the order."""
        return Ordered(tuple(breadth_first(problem)))
