"""Least peak memory first."""

from typing import ClassVar

import numpy as np

from treadle.core.method import Standard
from treadle.learn.plan.base import Order, Ordered
from treadle.learn.plan.listing import least_peak_first
from treadle.learn.plan.problem import Problem


class LeastPeakFirst(Order):
    """Run what leaves least in memory, among what does not raise the peak.

    Of the ready tasks that fit under the peak so far, the one with the least net growth runs; if
    none fits, the one that needs least while it runs. PyTorch's Inductor names the rule LPMF.
    """

    name: ClassVar[str] = "least_peak_first"
    paper = Standard("LPMF in PyTorch Inductor: reorder_for_peak_memory, 2024.")

    def order(self, problem: Problem, generator: np.random.Generator) -> Ordered:
        """Return the order."""
        return Ordered(tuple(least_peak_first(problem)))
