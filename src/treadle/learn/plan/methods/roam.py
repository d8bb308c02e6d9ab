"""ROAM's order, and what it takes to prove it."""

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from treadle.core.method import Paper
from treadle.learn.plan.base import Order, Ordered
from treadle.learn.plan.bounds import lower_bound, reach_of
from treadle.learn.plan.improve import Improver
from treadle.learn.plan.listing import CANDIDATES
from treadle.learn.plan.problem import Problem
from treadle.learn.plan.replay import peak_of, replay
from treadle.learn.plan.segments import segments_of
from treadle.learn.plan.updates import what_blocks_updates


class Roam(Order):
    """Order the pieces of a step that set its peak exactly, and stop at a proven bound.

    Tp(G) = max over segments of (peak of the segment + bytes that pass over it): between two
    separators of the forward pass, and between their mirrors in the backward pass, orders do not
    depend on each other, so only pieces on the peak are searched, and equal pieces once.
    Where we differ: the search starts from the best of eight orders and never ends above it; the
    pieces grow around the peak, whatever order is the best; each is solved by a search over its
    downsets instead of an integer program; before that, a minimum cut says for the task at the peak
    which tasks should have run by then, and moves them. The same cuts give a bound that no order
    beats, and the gap to it is reported.

    Paper: Shu et al., "ROAM: memory-efficient large DNN training via optimized operator ordering
    and memory layout", 2023.
    """

    name: ClassVar[str] = "roam"
    paper = Paper(
        "ROAM: memory-efficient large DNN training via optimized operator ordering and memory "
        "layout",
        2023,
        "https://arxiv.org/abs/2310.19295",
    )

    node_limit: Annotated[int, Field(ge=2)] = 60
    """Most operators of a piece that is searched exactly."""
    max_steps: Annotated[int, Field(ge=1)] = 100_000
    """Costs that one search works out before it gives up, the same on any machine."""
    total_steps: Annotated[int, Field(ge=1)] = 500_000
    """Costs that all searches work out together."""
    num_starts: Annotated[int, Field(ge=1)] = 3
    """Orders to improve, the best first."""

    def order(self, problem: Problem, generator: np.random.Generator) -> Ordered:
        """Return the order with the least peak found, with the bound and how it was found."""
        reach = reach_of(problem)
        orders = {name: rule(problem) for name, rule in CANDIDATES.items()}
        orders["segments"] = segments_of(problem, reach).order()
        peaks = {name: peak_of(problem, order) for name, order in orders.items()}
        ranked = sorted(orders, key=lambda name: peaks[name])
        improver = Improver(
            problem,
            reach,
            lower_bound(problem, reach).num_bytes,
            node_limit=self.node_limit,
            max_steps=self.max_steps,
            most_steps=self.total_steps,
        )
        best = orders[ranked[0]]
        if peaks[ranked[0]] > improver.bound:
            improver.raise_bound(list(orders.values()))
        if peaks[ranked[0]] > improver.bound:
            best = self._improved(improver, [orders[name] for name in ranked])
        notes = [f"Best simple order: {ranked[0]}, {peaks[ranked[0]]} bytes."]
        notes += improver.account() + what_blocks_updates(problem, reach)
        return Ordered(tuple(best), improver.bound, tuple(notes))

    def _improved(self, improver: Improver, starts: list[list[int]]) -> list[int]:
        """Return the best that becomes of the first starts; the bound rises where it is proven."""
        problem = improver.problem
        best = improver.search_whole(starts[0], replay(problem, starts[0])) or starts[0]
        for start in [best, *starts[1 : self.num_starts]]:
            if peak_of(problem, best) <= improver.bound:
                break
            best = min(best, improver.lower(start), key=lambda order: peak_of(problem, order))
        return best
