"""What each part of a plan is worth: from the traced order to the arena, one gain at a time."""

from typing import NamedTuple

from treadle.learn.plan.base import Plan
from treadle.learn.plan.listing import program, updates_asap
from treadle.learn.plan.problem import build_problem
from treadle.learn.plan.replay import Replay, replay

__all__ = ["Stages", "stages_of"]


class Stages(NamedTuple):
    """Bytes of all but parameters, states and data, at their peak."""

    traced: int
    """In the traced order, each result in memory of its own."""
    updates_in_backward: int
    """The same with each update as early as possible: what optimizer hooks give without a plan."""
    ordered: int
    """In the planned order, with what is recomputed, still without donation."""
    donated: int
    """In the planned order, with donation."""
    arena: int
    """In one arena: the layout's holes included."""
    before: Replay
    """The traced order, position by position."""
    after: Replay
    """The planned order."""


def stages_of(plan: Plan, alignment_bytes: int) -> Stages:
    """Return what each part of `plan` brings."""
    source, plain = (
        build_problem(graph, donate=False, alignment_bytes=alignment_bytes)
        for graph in (plan.source, plan.graph)
    )
    before, after = replay(source, program(source)), replay(plan.problem, plan.ordered.order)
    return Stages(
        before.peak,
        replay(source, updates_asap(source)).peak,
        replay(plain, plan.ordered.order).peak,
        after.peak,
        plan.arena_bytes,
        before,
        after,
    )
