"""The graph of a training step as plain data: operators, tensors, and what must come before what.

Nothing here needs torch, so that planners are tested on graphs that come from a file.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from treadle.core.errors import DataError

__all__ = ["FORMAT", "Graph", "GraphValue", "Kind", "Operator", "Phase", "load_graph", "save_graph"]

FORMAT = "treadle.step-graph/1"

Phase = Literal["constant", "forward", "backward", "update"]
"""A constant depends on no parameter and no input of floats: masks, positions, shifted labels.

Backward is what depends on the loss's gradient, or was traced after it and serves only what does.
"""

Kind = Literal["parameter", "state", "data", "temporary"]
_PHASES, _KINDS = get_args(Phase), get_args(Kind)
"""A temporary that no operator makes is there from the start, and can die."""


class GraphValue(NamedTuple):
    """One storage: views of it are the same value."""

    num_bytes: int
    dtype: str
    shape: tuple[int, ...]
    kind: Kind
    """All but temporaries live through the whole step and are counted apart."""
    name: str
    """A parameter's, a state's or an input's own name; else the operator's that makes it."""
    is_output: bool
    """A temporary that is handed out by the step, so that it lives to its end."""


class Operator(NamedTuple):
    """One operator that runs as a whole, with its views folded in."""

    name: str
    """Unique within the graph."""
    op: str
    """What it computes, such as "aten.mm.default"; updates of a parameter: "update.adamw"."""
    phase: Phase
    inputs: tuple[int, ...]
    """Indices of the values that it reads; an update's parameter and states are among them."""
    outputs: tuple[int, ...]
    """Indices of the values that it makes; an update changes its persistent values and makes none.
    """
    after: tuple[int, ...]
    """Indices of operators that must run before it though it reads nothing of theirs: an update
    comes after every reader of its parameter."""
    scratch_bytes: int
    """Bytes that it takes while it runs, beyond inputs and outputs."""
    flops: int
    in_place: tuple[tuple[int, int], ...]
    """Pairs (input, output) of values: the output may be written over the input if that dies here.
    """
    eager_in_place: tuple[tuple[int, int], ...] = ()
    """Those of `in_place` that PyTorch's own engine takes when it runs eagerly and the input dies
    here: where it sums the gradients of a tensor that was used twice. A simulation of eager must
    honour them, and only them, to agree with what is measured."""
    is_random: bool = False
    """Whether it uses the stream of random numbers, so that run again it would make other values.
    """


class Graph(NamedTuple):
    """Operators in program order, and the values between them."""

    name: str
    operators: tuple[Operator, ...]
    values: tuple[GraphValue, ...]

    def producers(self) -> list[int | None]:
        """Return for each value the operator that makes it; None: it is there from the start."""
        made: list[int | None] = [None] * len(self.values)
        for index, operator in enumerate(self.operators):
            for value in operator.outputs:
                made[value] = index
        return made

    def predecessors(self) -> list[list[int]]:
        """Return for each operator those that must run before it, ascending, without repeats."""
        made = self.producers()
        found = []
        for operator in self.operators:
            before = {made[value] for value in operator.inputs} | set(operator.after)
            found.append(sorted(index for index in before if index is not None))
        return found

    @property
    def persistent_bytes(self) -> int:
        """Bytes of what lives through the step: parameters, states and data."""
        return sum(value.num_bytes for value in self.values if value.kind != "temporary")


def save_graph(graph: Graph, path: Path) -> None:
    """Write `graph` as JSON, beside and renamed into place."""
    written = {
        "format": FORMAT,
        "name": graph.name,
        "values": [value._asdict() for value in graph.values],
        "operators": [operator._asdict() for operator in graph.operators],
    }
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(written))
    part.replace(path)


def load_graph(path: Path) -> Graph:
    """Read a graph that `save_graph` wrote.

    Raises:
        DataError: The file is no such graph, or names operators or values that it does not hold.
    """
    try:
        read = json.loads(path.read_text())
        if read["format"] != FORMAT:
            raise DataError(f"'{path}' has the format {read['format']!r}, expected {FORMAT!r}.")
        values = tuple(GraphValue(**_tupled(value)) for value in read["values"])
        operators = tuple(Operator(**_tupled(operator)) for operator in read["operators"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"'{path}' is no graph of a step ({error}); write one with "
            f"`treadle plan memory MODEL OUT`, or with save_graph."
        ) from error
    graph = Graph(read["name"], operators, values)
    _check(graph, path)
    return graph


def _tupled(fields: dict[str, Any]) -> dict[str, Any]:  # Any: JSON values
    def tupled(value: Any) -> Any:  # Any: JSON values
        return tuple(tupled(item) for item in value) if isinstance(value, list) else value

    return {key: tupled(value) for key, value in fields.items()}


def _check(graph: Graph, path: Path) -> None:
    if not graph.operators:
        raise DataError(f"'{path}' has no operators; capture the graph again.")
    for number, value in enumerate(graph.values):
        if type(value.num_bytes) is not int or value.num_bytes < 0 or value.kind not in _KINDS:
            raise DataError(
                f"'{path}': value {number} has num_bytes {value.num_bytes!r} and kind "
                f"{value.kind!r}, expected 0 or more and one of {', '.join(_KINDS)}; capture the "
                f"graph again."
            )
    for number, operator in enumerate(graph.operators):
        bad = type(operator.scratch_bytes) is not int or operator.scratch_bytes < 0
        if bad or operator.phase not in _PHASES:
            raise DataError(
                f"'{path}': operator {number} has scratch_bytes {operator.scratch_bytes!r} and "
                f"phase {operator.phase!r}, expected 0 or more and one of {', '.join(_PHASES)}; "
                f"capture the graph again."
            )
    made = [value for operator in graph.operators for value in operator.outputs]
    if len(made) != len(set(made)):
        raise DataError(f"'{path}': a value is made by two operators; capture the graph again.")
    for index, operator in enumerate(graph.operators):
        pairs = [value for pair in operator.in_place for value in pair]
        _check_range((*operator.inputs, *operator.outputs, *pairs), len(graph.values), path, index)
        _check_range(operator.after, index, path, index)


def _check_range(indices: Iterable[int], bound: int, path: Path, operator: int) -> None:
    for index in indices:
        if not 0 <= index < bound:
            raise DataError(
                f"'{path}': operator {operator} names {index}, expected 0 to {bound - 1}; "
                f"capture the graph again."
            )
