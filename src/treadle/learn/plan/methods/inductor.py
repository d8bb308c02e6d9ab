"""The orders that PyTorch's Inductor tries."""

from typing import ClassVar

import numpy as np

from treadle.core.method import Standard
from treadle.learn.plan.base import Order, Ordered
from treadle.learn.plan.listing import CANDIDATES
from treadle.learn.plan.problem import Problem
from treadle.learn.plan.replay import peak_of

_RULES = ("program", "least_peak_first", "breadth_first", "depth_first")


class Inductor(Order):
    """Take the best of the traced order, least peak first, breadth first and depth first.

    These are the four that `reorder_for_peak_memory` estimates and chooses from; the rules are
    ours, from their description. Inductor itself sees forward and backward pass apart and no
    update, so on a whole step this is the stronger rival.
    """

    name: ClassVar[str] = "inductor"
    paper = Standard("PyTorch Inductor, reorder_for_peak_memory, 2024.")

    def order(self, problem: Problem, generator: np.random.Generator) -> Ordered:
        """Return the order with the least peak, the earliest of equal ones."""
        orders = {name: CANDIDATES[name](problem) for name in _RULES}
        best = min(_RULES, key=lambda name: peak_of(problem, orders[name]))
        return Ordered(tuple(orders[best]), notes=(f"Inductor's best rule here is {best}.",))
