"""A greedy order of low peak, and what an order's peak is: all that torch.compile's backend needs.

`treadle plan` searches further.
"""

from collections.abc import Sequence

from treadle.model.graph.schema import Graph

__all__ = ["least_peak", "peak_bytes"]


class _Memory:
    """What lives while operators run one after another."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._is_temporary = [value.kind == "temporary" for value in graph.values]
        self._num_reads = [0] * len(graph.values)
        for operator in graph.operators:
            for value in operator.inputs:
                self._num_reads[value] += 1
        made = graph.producers()
        self.live_bytes = sum(
            value.num_bytes
            for value, producer in zip(graph.values, made, strict=True)
            if value.kind == "temporary" and producer is None
        )
        self.peak_bytes = self.live_bytes

    def cost(self, index: int) -> tuple[int, int]:
        """Return by how much an operator raises the memory while it runs, and after it."""
        operator, values = self._graph.operators[index], self._graph.values
        during = sum(values[value].num_bytes for value in operator.outputs)
        freed = sum(
            values[value].num_bytes
            for value in operator.inputs
            if self._num_reads[value] == 1
            and self._is_temporary[value]
            and not values[value].is_output
        )
        unread = sum(
            values[value].num_bytes
            for value in operator.outputs
            if not self._num_reads[value] and not values[value].is_output
        )
        return during + operator.scratch_bytes, during - freed - unread

    def run(self, index: int) -> None:
        """Let an operator run."""
        during, after = self.cost(index)
        self.peak_bytes = max(self.peak_bytes, self.live_bytes + during)
        self.live_bytes += after
        for value in self._graph.operators[index].inputs:
            self._num_reads[value] -= 1


def peak_bytes(graph: Graph, order: Sequence[int]) -> int:
    """Return the most bytes of temporaries that live at once, without writing in place."""
    memory = _Memory(graph)
    for index in order:
        memory.run(index)
    return memory.peak_bytes


def least_peak(graph: Graph) -> list[int]:
    """Return an order by the least-peak rule, or program order where that is no worse.

    Of the operators that are ready, one that does not raise the peak so far and leaves the least;
    if each raises it, the one that raises it least.
    """
    before = graph.predecessors()
    waits_for = [len(found) for found in before]
    followers: list[list[int]] = [[] for _ in before]
    for index, found in enumerate(before):
        for other in found:
            followers[other].append(index)
    memory, order = _Memory(graph), list[int]()
    ready = [index for index, count in enumerate(waits_for) if not count]
    while ready:
        index = min(ready, key=lambda index: _rank(memory, index))
        ready.remove(index)
        memory.run(index)
        order.append(index)
        for follower in followers[index]:
            waits_for[follower] -= 1
            if not waits_for[follower]:
                ready.append(follower)
    program = list(range(len(order)))
    return order if memory.peak_bytes < peak_bytes(graph, program) else program


def _rank(memory: _Memory, index: int) -> tuple[int, int, int]:
    during, after = memory.cost(index)
    return max(memory.live_bytes + during, memory.peak_bytes), after, index
