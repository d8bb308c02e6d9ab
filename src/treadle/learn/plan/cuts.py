"""The least memory in which one task can run, and what must have run before it for that.

While task v runs, some downset D of the other tasks is done: all ancestors of v, none of its
descendants. In memory are the values of D that tasks outside D still read. The D with the fewest
bytes is a minimum cut of a network: a node for each undecided task, an endless edge to each of its
predecessors (D holds them), and for each value an edge of its bytes from its producer to a knot
that has endless edges to its readers. So the least peak *at v* is known exactly, for any order of
the whole graph, and an order that begins with D attains it.
"""

from typing import NamedTuple

import numpy as np

from treadle.learn.plan.bounds import Reach
from treadle.learn.plan.problem import Problem

__all__ = ["LeastCut", "least_cut"]

_ENDLESS = -1
"""Stands for the bytes of an edge that no cut takes."""
_CAPACITY = 1 << 30
"""Its capacity; flows are 32-bit in scipy, so bytes are counted in units that all fit below it."""


class LeastCut(NamedTuple):
    """The cheapest moment for a task."""

    num_bytes: int
    """At most the least bytes in memory while the task runs, and all but equal to them: donations
    are counted as if all that may die did."""
    before: frozenset[int]
    """The tasks that have run by then."""


class _Network:
    """Edges between numbered nodes; 0 is the source (done), 1 the sink (not done)."""

    def __init__(self) -> None:
        self.heads: list[int] = []
        self.tails: list[int] = []
        self.bytes: list[int] = []
        self.num_nodes = 2

    def node(self) -> int:
        self.num_nodes += 1
        return self.num_nodes - 1

    def edge(self, tail: int, head: int, num_bytes: int) -> None:
        self.tails.append(tail)
        self.heads.append(head)
        self.bytes.append(num_bytes)


def least_cut(
    problem: Problem,
    reach: Reach,
    task: int,
    after: frozenset[int] = frozenset(),
    ahead_of: frozenset[int] = frozenset(),
) -> LeastCut:
    """Return the fewest bytes with which `task` can run, and after which tasks.

    Only moments count at which the tasks of `after`, no descendants of the first, have run, and
    those of `ahead_of`, no ancestors of it, have not.
    """
    num = len(problem.tasks)
    ancestors = np.bitwise_or.reduce(reach.ancestors[[task, *sorted(after)]], axis=0)
    is_before = np.unpackbits(ancestors, count=num).tolist()
    descendants = np.bitwise_or.reduce(reach.descendants[[task, *sorted(ahead_of)]], axis=0)
    is_after = np.unpackbits(descendants, count=num).tolist()
    is_before[task] = 0
    network = _Network()
    node = [0 if is_before[t] else 1 if is_after[t] else network.node() for t in range(num)]
    for number, place in enumerate(node):
        if place > 1:
            for other in problem.predecessors[number]:
                if node[other] > 1:
                    network.edge(place, node[other], _ENDLESS)
    forced = _add_values(problem, task, node, network)
    forced += problem.tasks[task].scratch_bytes
    added, done = _solve(network)
    before = [t for t, place in enumerate(node) if place == 0 or (place > 1 and done[place])]
    return LeastCut(forced + added, frozenset(before))


def _add_values(problem: Problem, task: int, node: list[int], network: _Network) -> int:
    """Add an edge for each value that may or may not be there; return the bytes that must be."""
    held = {*problem.tasks[task].inputs, *problem.tasks[task].outputs}
    spared, always = _spared(problem, task)
    forced = sum(problem.sizes[value] for value in held - spared) - always
    for value, size in enumerate(problem.sizes):
        if not size or (value in held and value not in spared):
            continue
        producer = problem.producers[value]
        tail = 0 if producer < 0 else node[producer]
        heads = {node[reader] for reader in problem.consumers[value] if reader != task}
        heads |= {1} if problem.is_output[value] else set()
        heads -= {0, tail}
        if tail == 1 or not heads:
            continue
        if 1 in heads:
            if tail:
                network.edge(tail, 1, size)
            else:
                forced += size
            continue
        knot = network.node()
        network.edge(tail, knot, size)
        for head in sorted(heads):
            network.edge(knot, head, _ENDLESS)
    return forced


def _spared(problem: Problem, task: int) -> tuple[set[int], int]:
    """Return the inputs that cost nothing if they die here, and bytes that are spared in any case.

    An input that can go to one output, which can take no other, is of the first kind. Where inputs
    compete, the bytes count as spared whatever lives on: a bound may be too low, never too high.
    """
    pairs = [(i, o) for i, o in problem.tasks[task].donations if not problem.is_output[i]]
    givers, takers = [i for i, _ in pairs], [o for _, o in pairs]
    single = {i for i, o in pairs if givers.count(i) == 1 and takers.count(o) == 1}
    rival = [(i, o) for i, o in pairs if i not in single]
    always = 0
    for size in {problem.sizes[i] for i, _ in rival}:
        num = [len({pair[k] for pair in rival if problem.sizes[pair[k]] == size}) for k in (0, 1)]
        always += size * min(num)
    return single, always


def _solve(network: _Network) -> tuple[int, list[bool]]:
    """Return the bytes of the least cut, and for each node whether it lies on the source's side."""
    total = sum(size for size in network.bytes if size > 0)
    if not total:
        return 0, [True, *[False] * (network.num_nodes - 1)]
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    unit = 64 * -(-total // (_CAPACITY // 2 * 64))
    capacity = [_CAPACITY if size < 0 else size // unit for size in network.bytes]
    tails, heads = np.array(network.tails, np.int32), np.array(network.heads, np.int32)
    shape = (network.num_nodes, network.num_nodes)
    edges = csr_array((np.array(capacity, np.int32), (tails, heads)), shape=shape)
    edges.sum_duplicates()
    flow = maximum_flow(edges, 0, 1)
    left = (edges - flow.flow).tocsr()
    left.eliminate_zeros()
    reached = breadth_first_order(left, 0, return_predecessors=False)
    done = [False] * network.num_nodes
    for place in reached.tolist():
        done[place] = True
    return int(flow.flow_value) * unit, done
