"""Arithmetic for memory: values that the backward pass makes again instead of keeping them.

Candidates are classes of alike values, such as the activations of all blocks, in the order of
bytes saved for each operation repeated. A class is taken if the step's peak truly falls, as the
replay counts it; of one that exceeds what may be repeated, as many members as fit are taken.
Where a whole class does not help, since each member would be made from the one before, every second
one is tried: the others stay as checkpoints.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from treadle.learn.plan.listing import least_peak_first, updates_asap
from treadle.learn.plan.problem import build_problem
from treadle.learn.plan.replay import peak_of
from treadle.model.graph.repeats import AGAIN
from treadle.model.graph.schema import Graph, GraphValue, Operator

__all__ = ["Recomputed", "recompute"]

_NOT_REPEATABLE = ("dropout", "bernoulli", "rand", "batch_norm")
"""Parts of operators' names that draw numbers or count their calls; graphs of older files say it by
names alone."""


class Recomputed(NamedTuple):
    """A step that makes some values twice."""

    graph: Graph
    values: tuple[str, ...]
    """Names of the values that are not kept."""
    extra_flops: int


def recompute(graph: Graph, fraction: float) -> Recomputed:
    """Return `graph` with values dropped after the forward pass and made again in the backward.

    Args:
        graph: The step.
        fraction: How much of the step's arithmetic may be repeated.
    """
    search = _Search(graph, int(fraction * sum(operator.flops for operator in graph.operators)))
    best = Recomputed(graph, (), 0)
    peak = _peak(graph)
    dropped: frozenset[int] = frozenset()
    is_better = fraction > 0
    while is_better:
        is_better = False
        groups = search.groups(dropped)
        for group in [part for whole in groups for part in (whole, whole[::2])]:
            more = search.affordable(dropped, group)
            if more == dropped:
                continue
            found = search.rewritten(more)
            if (new_peak := _peak(found.graph)) < peak:
                best, peak, dropped, is_better = found, new_peak, more, True
    return best


def _peak(graph: Graph) -> int:
    problem = build_problem(graph)
    return min(peak_of(problem, rule(problem)) for rule in (updates_asap, least_peak_first))


class _Search:
    """What can be dropped from a graph, and what that repeats."""

    def __init__(self, graph: Graph, most_flops: int) -> None:
        self.graph, self.most_flops = graph, most_flops
        self.made = graph.producers()
        self.readers: list[list[int]] = [[] for _ in graph.values]
        for index, operator in enumerate(graph.operators):
            for value in operator.inputs:
                self.readers[value].append(index)
        changed = {
            value
            for operator in graph.operators
            if _writes_inputs(operator)
            for value in operator.inputs
        }
        self.saved = {
            value
            for value in range(len(graph.values))
            if self._is_saved(value) and value not in changed
        }
        self.cannot = {
            index
            for index, operator in enumerate(graph.operators)
            if _writes_inputs(operator)
            or operator.is_random
            or any(part in operator.op for part in _NOT_REPEATABLE)
            or changed & set(operator.outputs)
        }

    def _is_saved(self, value: int) -> bool:
        """Return whether the forward pass makes `value` and the backward pass reads it."""
        producer = self.made[value]
        return (
            producer is not None
            and self.graph.operators[producer].phase == "forward"
            and not self.graph.values[value].is_output
            and any(self.graph.operators[r].phase == "backward" for r in self.readers[value])
        )

    def groups(self, dropped: frozenset[int]) -> list[list[int]]:
        """Return classes of values that can still be dropped, those with the best price first."""
        classes: dict[tuple[str, int, int], list[int]] = {}
        price: dict[tuple[str, int, int], float] = {}
        for value in sorted(self.saved - dropped):
            again = self.repeated(dropped | {value})
            if again is None:
                continue
            producer = self.made[value]
            assert producer is not None, "saved values are made"
            operator = self.graph.operators[producer]
            key = (operator.op, self.graph.values[value].num_bytes, operator.flops)
            classes.setdefault(key, []).append(value)
            cost = self._flops(again) - self._flops(self.repeated(dropped) or ())
            price[key] = max(price.get(key, 0.0), cost / self.graph.values[value].num_bytes)
        return [classes[key] for key in sorted(classes, key=lambda key: (price[key], key))]

    def _flops(self, operators: Iterable[int]) -> int:
        return sum(self.graph.operators[index].flops for index in operators)

    def affordable(self, dropped: frozenset[int], group: Sequence[int]) -> frozenset[int]:
        """Return `dropped` with as many values of `group` as may be repeated, the first first."""
        found = dropped
        for value in group:
            again = self.repeated(found | {value})
            if again is not None and self._flops(again) <= self.most_flops:
                found |= {value}
        return found

    def repeated(self, dropped: frozenset[int]) -> set[int] | None:
        """Return the operators that run again; None if one of them cannot."""
        again: set[int] = set()
        waiting = list(dropped)
        while waiting:
            producer = self.made[waiting.pop()]
            if producer is None or producer in again:
                continue
            if producer in self.cannot:
                return None
            again.add(producer)
            waiting += [v for v in self.graph.operators[producer].inputs if self._is_gone(v)]
        return again

    def _is_gone(self, value: int) -> bool:
        """Return whether the backward pass cannot count on `value`: only the forward reads it."""
        producer = self.made[value]
        return (
            producer is not None
            and self.graph.operators[producer].phase == "forward"
            and not any(self.graph.operators[r].phase == "backward" for r in self.readers[value])
        )

    def rewritten(self, dropped: frozenset[int]) -> Recomputed:
        """Return the graph with what makes `dropped` repeated where it is needed."""
        again = self.repeated(dropped)
        assert again is not None, "only repeatable values are dropped"
        writing = _Writing(self.graph, dropped, again, self.made)
        for index in range(len(self.graph.operators)):
            writing.emit(index)
        names = tuple(self.graph.values[value].name for value in sorted(dropped))
        return Recomputed(writing.graph(), names, self._flops(again))


class _Writing:
    """A graph in the making, with clones of operators before their first reader."""

    def __init__(
        self, graph: Graph, dropped: frozenset[int], again: set[int], made: list[int | None]
    ) -> None:
        self.source, self.dropped, self.again, self.made = graph, dropped, again, made
        self.values: list[GraphValue] = list(graph.values)
        self.operators: list[Operator] = []
        self.place: dict[int, int] = {}
        self.copies: dict[int, int] = {}
        self.late_readers: dict[int, list[int]] = {}

    def emit(self, index: int) -> None:
        operator = self.source.operators[index]
        inputs, pairs = operator.inputs, operator.in_place
        if operator.phase in ("backward", "update"):
            inputs = tuple(self.copy(value) for value in inputs)
            pairs = tuple((self.copies.get(i, i), o) for i, o in pairs)
        after = [self.place[other] for other in operator.after]
        if operator.phase == "update":
            after += [r for value in inputs for r in self.late_readers.get(value, ())]
        self.place[index] = len(self.operators)
        after = sorted(set(after))
        self.operators.append(operator._replace(inputs=inputs, in_place=pairs, after=tuple(after)))

    def copy(self, value: int) -> int:
        """Return the value that the backward pass reads in place of `value`."""
        return self.cloned(value) if value in self.dropped else value

    def cloned(self, value: int) -> int:
        """Return the clone of a value, after adding the operator that makes it."""
        if value in self.copies:
            return self.copies[value]
        producer = self.made[value]
        assert producer is not None, "only made values are cloned"
        operator = self.source.operators[producer]
        inputs = tuple(self.cloned(v) if self.made[v] in self.again else v for v in operator.inputs)
        for output in operator.outputs:
            self.copies[output] = len(self.values)
            old = self.source.values[output]
            self.values.append(old._replace(name=old.name + AGAIN, is_output=False))
        for read in inputs:
            if self.values[read].kind != "temporary":
                self.late_readers.setdefault(read, []).append(len(self.operators))
        mapped = dict(zip(operator.inputs, inputs, strict=True))
        self.operators.append(
            operator._replace(
                name=operator.name + AGAIN,
                phase="backward",
                inputs=inputs,
                outputs=tuple(self.copies[output] for output in operator.outputs),
                after=tuple(sorted(self.place[o] for o in operator.after)),
                in_place=tuple((mapped[i], self.copies[o]) for i, o in operator.in_place),
            )
        )
        return self.copies[value]

    def graph(self) -> Graph:
        return Graph(self.source.name, tuple(self.operators), tuple(self.values))


def _writes_inputs(operator: Operator) -> bool:
    """Return whether an operator changes what it reads, as aten's names with a line at the end."""
    parts = operator.op.split(".")
    return any(part.endswith("_") and not part.endswith("__") for part in parts)
