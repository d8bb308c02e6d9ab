"""What no order can avoid: the bytes that are in memory at some task whatever runs when."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.learn.plan.problem import Problem

__all__ = ["Bound", "Reach", "lower_bound", "reach_of"]

Bits = npt.NDArray[np.uint8]


class Reach(NamedTuple):
    """Who comes before and after whom, in packed bits: row by task, itself included."""

    ancestors: Bits
    descendants: Bits

    def is_before(self, first: int, second: int) -> bool:
        """Return whether `first` must run before `second` (or is it)."""
        return bool(self.ancestors[second, first >> 3] >> (7 - (first & 7)) & 1)


class Bound(NamedTuple):
    """The most that some task needs in any order."""

    num_bytes: int
    task: int
    """The task at which it is reached; -1 in a graph without tasks."""
    by_task: tuple[int, ...]
    """What each task needs in any order."""


def reach_of(problem: Problem) -> Reach:
    """Return ancestors and descendants of every task; num_tasks² / 4 bytes."""
    num = len(problem.tasks)
    width = -(-num // 8)
    ancestors = np.zeros((num, width), np.uint8)
    descendants = np.zeros((num, width), np.uint8)
    for task in range(num):
        ancestors[task, task >> 3] |= 128 >> (task & 7)
        for other in problem.predecessors[task]:
            ancestors[task] |= ancestors[other]
    for task in reversed(range(num)):
        descendants[task, task >> 3] |= 128 >> (task & 7)
        for other in problem.successors[task]:
            descendants[task] |= descendants[other]
    return Reach(ancestors, descendants)


def lower_bound(problem: Problem, reach: Reach | None = None) -> Bound:
    """Return the largest number of bytes that some task finds in memory in every order.

    A value is there while task v runs, whatever the order, if its producer is v or an ancestor of
    v, and if v, a descendant of v, or the step's end reads it. Of these the bytes of each donation
    that v may make are taken off: an input of v may be handed on only if nothing after v reads it.
    """
    reach = reach or reach_of(problem)
    num = len(problem.tasks)
    needed = np.zeros(num, np.int64)
    for value, size in enumerate(problem.sizes):
        if not size:
            continue
        bits = _stays(problem, reach, value)
        if bits is not None:
            needed += np.unpackbits(bits, count=num) * np.int64(size)
    for index, task in enumerate(problem.tasks):
        needed[index] += task.scratch_bytes - _most_donated(problem, reach, index)
    if not num:
        return Bound(0, -1, ())
    top = int(needed.argmax())
    return Bound(int(needed[top]), top, tuple(needed.tolist()))


def _stays(problem: Problem, reach: Reach, value: int) -> Bits | None:
    """Return the tasks during which `value` is in memory in every order."""
    producer, readers = problem.producers[value], problem.consumers[value]
    later = None if producer < 0 else reach.descendants[producer]
    if problem.is_output[value]:
        return np.full(reach.ancestors.shape[1], 255, np.uint8) if later is None else later
    if not readers:
        return None if producer < 0 else _only(producer, reach.ancestors.shape[1])
    earlier = np.bitwise_or.reduce(reach.ancestors[list(readers)], axis=0)
    found: Bits = earlier if later is None else earlier & later
    return found


def _only(task: int, width: int) -> Bits:
    bits = np.zeros(width, np.uint8)
    bits[task >> 3] = 128 >> (task & 7)
    return bits


def _most_donated(problem: Problem, reach: Reach, index: int) -> int:
    """Return the most bytes that task `index` may hand on, in the best of cases."""
    givers: dict[int, set[int]] = {}
    takers: dict[int, set[int]] = {}
    for given, value in problem.tasks[index].donations:
        others = (other for other in problem.consumers[given] if other != index)
        if problem.is_output[given] or any(reach.is_before(index, other) for other in others):
            continue
        givers.setdefault(problem.sizes[value], set()).add(given)
        takers.setdefault(problem.sizes[value], set()).add(value)
    return sum(size * min(len(givers[size]), len(takers[size])) for size in givers)
