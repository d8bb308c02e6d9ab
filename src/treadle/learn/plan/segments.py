"""Where a step can be parted: separators of the forward pass, their segments and the mirrors.

A separator comes before or after every other task, so that no order moves it, and orders of the
segments between separators do not depend on each other. In a whole training step almost nothing
is comparable with everything: weight gradients may wait, updates may come at any time, and the
backward pass's helpers may run in the forward pass. So separators are sought among the tasks that
the loss needs, tasks with small outputs set aside, and the backward pass is parted where it passes
the forward pass's separators again.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from treadle.learn.plan.bounds import Reach
from treadle.learn.plan.problem import Problem

__all__ = ["Segments", "segments_of"]

_SMALL_BYTES = 16 * 1024
"""Outputs below it do not stand in the way of a separator, nor outputs below a share of all."""
_SMALL_SHARE = 1e-5


class Segments(NamedTuple):
    """The parts of a step, in the order in which they run."""

    separators: tuple[int, ...]
    """Tasks of the forward pass that no order of it moves."""
    parts: tuple[tuple[int, ...], ...]
    """Forward segments (each ends with its separator), then their mirrors from last to first;
    updates are in the part after which they can run."""

    def order(self) -> list[int]:
        """Return the parts one after the other."""
        return [task for part in self.parts for task in part]


def segments_of(problem: Problem, reach: Reach) -> Segments:
    """Return the segments of a step; one part where it has no forward pass or no separator."""
    spine = _spine(problem, reach)
    separators = _separators(reach, spine)
    num_segments = len(separators) + 1
    level = _levels(problem, separators, num_segments)
    parts: list[list[int]] = [[] for _ in range(2 * num_segments)]
    for task, place in enumerate(level):
        parts[place].append(task)
    return Segments(tuple(separators), tuple(tuple(part) for part in parts if part))


def _spine(problem: Problem, reach: Reach) -> list[int]:
    """Return the forward tasks with large outputs that the last forward task, the loss, needs."""
    forward = [t for t, task in enumerate(problem.tasks) if task.phase == "forward"]
    if not forward:
        return []
    leaves = [t for t in forward if any(problem.is_output[v] for v in problem.tasks[t].outputs)]
    loss = leaves[-1] if leaves else forward[-1]
    made = [sum(problem.sizes[v] for v in task.outputs) for task in problem.tasks]
    small = min(_SMALL_BYTES, int(_SMALL_SHARE * sum(made)))
    return [t for t in forward if t != loss and made[t] > small and reach.is_before(t, loss)]


def _separators(reach: Reach, spine: Sequence[int]) -> list[int]:
    """Return the tasks of `spine` that are comparable with all others of it."""
    if not spine:
        return []
    width = reach.ancestors.shape[1] * 8
    members = np.zeros(width, np.uint8)
    members[list(spine)] = 1
    packed = np.packbits(members)
    found = []
    for task in spine:
        related = (reach.ancestors[task] | reach.descendants[task]) & packed
        if int(np.unpackbits(related).sum()) == len(spine):
            found.append(task)
    return found


def _levels(problem: Problem, separators: Sequence[int], num_segments: int) -> list[int]:
    """Return the part of each task.

    A forward task is in the segment after the last separator that it needs. A backward task is in
    the mirror of the earliest segment that it or what it needs goes back to: a helper, which needs
    no gradient, in that of the latest forward task that it reads from.
    """
    number = {task: place for place, task in enumerate(separators)}
    segment = [0] * len(problem.tasks)
    level = [0] * len(problem.tasks)
    for index, task in enumerate(problem.tasks):
        before = problem.predecessors[index]
        ahead = [t for t in before if problem.tasks[t].phase in ("constant", "forward")]
        behind = [t for t in before if problem.tasks[t].phase in ("backward", "update")]
        deepest = max((segment[t] + (t in number) for t in ahead), default=0)
        if task.phase in ("constant", "forward") and not behind:
            segment[index] = deepest
            level[index] = deepest
            continue
        reached = [segment[t] for t in behind]
        if ahead or not behind:
            reached.append(min(deepest, num_segments - 1))
        segment[index] = min(reached)
        level[index] = max(2 * num_segments - 1 - segment[index], *(level[t] for t in before), 0)
    return level
