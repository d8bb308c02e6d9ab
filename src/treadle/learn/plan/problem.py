"""What a planner sees of a graph: operators, temporary values with their sizes, what precedes what.

Persistent values are gone: they are there all the time. Sizes are rounded up to the allocator's
alignment, so that bytes of an order and addresses of a layout are counted alike.
"""

from collections.abc import Sequence
from typing import NamedTuple

from treadle.core.errors import DataError
from treadle.model.graph.schema import Graph, Phase

__all__ = ["Problem", "Task", "build_problem", "check_order"]


class Task(NamedTuple):
    """One operator, as a planner sees it."""

    name: str
    op: str
    phase: Phase
    inputs: tuple[int, ...]
    """Temporary values that it reads, each once."""
    outputs: tuple[int, ...]
    """Temporary values that it makes."""
    scratch_bytes: int
    flops: int
    donations: tuple[tuple[int, int], ...]
    """Pairs (input, output) of equal size: the output may take the input's bytes if that dies here.
    """


class Problem(NamedTuple):
    """Tasks that must be ordered and values that must be placed."""

    tasks: tuple[Task, ...]
    sizes: tuple[int, ...]
    """Bytes of each value, a multiple of the alignment."""
    names: tuple[str, ...]
    """Name of each value."""
    value_of: tuple[int, ...]
    """Index of each value in the graph."""
    producers: tuple[int, ...]
    """The task that makes each value; -1: it is there from the start."""
    consumers: tuple[tuple[int, ...], ...]
    """The tasks that read each value, ascending."""
    is_output: tuple[bool, ...]
    predecessors: tuple[tuple[int, ...], ...]
    successors: tuple[tuple[int, ...], ...]

    def start_bytes(self) -> int:
        """Return the bytes of the values that are there from the start."""
        return sum(size for size, made in zip(self.sizes, self.producers, strict=True) if made < 0)


def build_problem(graph: Graph, *, donate: bool = True, alignment_bytes: int = 64) -> Problem:
    """Return what planners see of `graph`.

    Args:
        graph: A captured or loaded step.
        donate: Whether outputs may take the bytes of inputs that die.
        alignment_bytes: Every size is rounded up to a multiple of it.

    Raises:
        DataError: The graph has a cycle, or its program order runs a reader before its producer.
    """
    place = {
        index: new
        for new, index in enumerate(
            i for i, value in enumerate(graph.values) if value.kind == "temporary"
        )
    }
    kept = [graph.values[index] for index in place]

    def aligned(num_bytes: int) -> int:
        return -(-num_bytes // alignment_bytes) * alignment_bytes

    sizes = tuple(aligned(value.num_bytes) for value in kept)
    tasks = []
    for operator in graph.operators:
        inputs = tuple(dict.fromkeys(place[v] for v in operator.inputs if v in place))
        outputs = tuple(dict.fromkeys(place[v] for v in operator.outputs if v in place))
        pairs = [
            (place[i], place[o])
            for i, o in operator.in_place
            if donate and i in place and o in place and sizes[place[i]] == sizes[place[o]]
        ]
        pairs = [(i, o) for i, o in pairs if i in inputs and o in outputs]
        tasks.append(
            Task(
                operator.name,
                operator.op,
                operator.phase,
                inputs,
                outputs,
                aligned(operator.scratch_bytes),
                operator.flops,
                tuple(pairs),
            )
        )
    predecessors = tuple(tuple(before) for before in graph.predecessors())
    _check_acyclic(graph, predecessors)
    return Problem(
        tuple(tasks),
        sizes,
        tuple(value.name for value in kept),
        tuple(place),
        _producers(tasks, len(sizes)),
        _consumers(tasks, len(sizes)),
        tuple(value.is_output for value in kept),
        predecessors,
        _successors(predecessors),
    )


def _producers(tasks: Sequence[Task], num_values: int) -> tuple[int, ...]:
    made = [-1] * num_values
    for index, task in enumerate(tasks):
        for value in task.outputs:
            made[value] = index
    return tuple(made)


def _consumers(tasks: Sequence[Task], num_values: int) -> tuple[tuple[int, ...], ...]:
    readers: list[list[int]] = [[] for _ in range(num_values)]
    for index, task in enumerate(tasks):
        for value in task.inputs:
            readers[value].append(index)
    return tuple(tuple(found) for found in readers)


def _successors(predecessors: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    found: list[list[int]] = [[] for _ in predecessors]
    for index, before in enumerate(predecessors):
        for other in before:
            found[other].append(index)
    return tuple(tuple(after) for after in found)


def _check_acyclic(graph: Graph, predecessors: Sequence[Sequence[int]]) -> None:
    missing = [len(before) for before in predecessors]
    after = _successors(predecessors)
    ready = [index for index, count in enumerate(missing) if not count]
    for index in ready:
        for other in after[index]:
            missing[other] -= 1
            if not missing[other]:
                ready.append(other)
    if len(ready) < len(missing):
        stuck = [graph.operators[i].name for i, count in enumerate(missing) if count]
        raise DataError(
            f"The graph '{graph.name}' has a cycle through {', '.join(stuck[:4])} "
            f"({len(stuck)} operators wait for each other), expected a graph without one; capture "
            f"it again, or mend its 'inputs' and 'after'."
        )
    for index, before in enumerate(predecessors):
        if before and before[-1] > index:
            late = graph.operators[max(before)].name
            raise DataError(
                f"The graph '{graph.name}' lists '{graph.operators[index].name}' before '{late}', "
                f"which it needs; list operators in an order in which they can run."
            )


def check_order(problem: Problem, order: Sequence[int]) -> None:
    """Check that `order` runs every task once and after what it needs.

    Raises:
        DataError: It does not; the message names the task.
    """
    if sorted(order) != list(range(len(problem.tasks))):
        raise DataError(
            f"An order of {len(order)} operators was found, expected each of the "
            f"{len(problem.tasks)} once; return a permutation."
        )
    position = {task: place for place, task in enumerate(order)}
    for task, before in enumerate(problem.predecessors):
        for other in before:
            if position[other] > position[task]:
                raise DataError(
                    f"The order runs '{problem.tasks[task].name}' before "
                    f"'{problem.tasks[other].name}', which it needs; return a topological order."
                )
