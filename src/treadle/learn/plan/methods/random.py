"""A random order."""

from typing import ClassVar

import numpy as np

from treadle.core.method import Control
from treadle.learn.plan.base import Order, Ordered
from treadle.learn.plan.problem import Problem
from treadle.learn.plan.running import Running


class Random(Order):
    """Run any ready task, drawn by the seed.

    The control: a rule that does not beat it knows nothing about memory.
    """

    name: ClassVar[str] = "random"
    paper = Control("A random topological order: what any rule must beat.")

    def order(self, problem: Problem, generator: np.random.Generator) -> Ordered:
        """Return the order."""
        state = Running(problem)
        waiting = sorted(state.ready)
        seen = set(waiting)
        while waiting:
            place = int(generator.integers(len(waiting)))
            waiting[place], waiting[-1] = waiting[-1], waiting[place]
            new = [task for task in state.run(waiting.pop()) if task not in seen]
            seen.update(new)
            waiting += sorted(new)
        return Ordered(tuple(state.order))
