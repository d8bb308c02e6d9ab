"""The order in which the step was traced."""

from typing import ClassVar

import numpy as np

from treadle.core.method import Control
from treadle.learn.plan.base import Order, Ordered
from treadle.learn.plan.listing import program
from treadle.learn.plan.problem import Problem


class Program(Order):
    """Keep the order in which the step was traced.

    The control: what an eager framework runs, with all updates after the whole backward pass.
    """

    name: ClassVar[str] = "program"
    paper = Control("The order of the program: what reordering must beat.")

    def order(self, problem: Problem, generator: np.random.Generator) -> Ordered:
        """Return the order."""
        return Ordered(tuple(program(problem)))
