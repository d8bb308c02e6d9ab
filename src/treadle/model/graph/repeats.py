"""Running a graph in which operators repeat, so that their results need not be kept."""

from typing import TYPE_CHECKING, Any

from treadle.core.errors import SettingsError
from treadle.model.graph.capture import Captured
from treadle.model.graph.schema import Graph, Operator

if TYPE_CHECKING:
    import torch

__all__ = ["AGAIN", "with_repeats"]

AGAIN = "@again"
"""Ends the names of an operator that repeats another one, and of its results."""


def with_repeats(captured: Captured, graph: Graph) -> Captured:
    """Return a step that runs as `graph` says: the captured graph, with operators repeated.

    The values of the captured graph come first in `graph`, and keep their indices; a repeated
    operator and its results are called as the first ones, with `AGAIN` behind.

    Raises:
        SettingsError: The graph has an operator that was not captured.
    """
    writing = _Writing(captured, graph)
    for operator in graph.operators:
        writing.operator(operator)
    return writing.finish()


class _Writing:
    """A module in the making; a node is known by its name and by the value in which it lies."""

    def __init__(self, captured: Captured, graph: Graph) -> None:
        import torch

        self._captured, self._graph = captured, graph
        self._made = torch.fx.Graph()
        self._nodes = {node.name: node for node in captured.module.graph.nodes}
        self._members = {
            operator.name: members
            for operator, members in zip(captured.graph.operators, captured.members, strict=True)
        }
        first = {value.name: index for index, value in enumerate(captured.graph.values)}
        self._origins = [
            first[value.name.removesuffix(AGAIN)] if value.name.endswith(AGAIN) else index
            for index, value in enumerate(graph.values)
        ]
        self._copies: dict[tuple[str, int], torch.fx.Node] = {}
        self._values: dict[str, tuple[int, ...]] = {}
        self._new_members: list[tuple[str, ...]] = []
        for node in captured.module.graph.nodes:
            if node.op in ("placeholder", "get_attr"):
                self._copy(node, {}, {})

    def operator(self, operator: Operator) -> None:
        """Append an operator, and the views that it is the first to read."""
        members = self._members.get(operator.name.removesuffix(AGAIN))
        if members is None:
            raise SettingsError(
                f"The graph has the operator '{operator.name}', which was not captured; give the "
                f"captured graph, with operators repeated."
            )
        versions = {self._origins[value]: value for value in (*operator.inputs, *operator.outputs)}
        own: dict[str, torch.fx.Node] = {}
        for name in members:
            own[name] = self._copy(self._nodes[name], versions, own)
        self._new_members.append(tuple(node.name for node in own.values()))

    def _copy(
        self,
        node: "torch.fx.Node",
        versions: dict[int, int],
        own: "dict[str, torch.fx.Node]",
    ) -> "torch.fx.Node":
        def source_of(source: "torch.fx.Node") -> "torch.fx.Node":
            return own[source.name] if source.name in own else self._source(source, versions)

        made = self._made.node_copy(node, source_of)
        numbers = tuple(
            versions.get(number, number) for number in self._captured.values.get(node.name, ())
        )
        self._values[made.name] = numbers
        self._copies[node.name, _first(numbers)] = made
        return made

    def _source(self, source: "torch.fx.Node", versions: dict[int, int]) -> "torch.fx.Node":
        """Return the copy of a node in the version that is read, making views on the way."""
        number = _first(self._captured.values[source.name])
        key = source.name, versions.get(number, number)
        return self._copies[key] if key in self._copies else self._copy(source, versions, {})

    def finish(self) -> Captured:
        """Return what was written."""
        import torch

        (output,) = self._captured.module.graph.find_nodes(op="output")
        self._made.node_copy(output, lambda node: self._source(node, {}))
        module = torch.fx.GraphModule(self._captured.module, self._made)
        return Captured(
            self._graph, module, tuple(self._new_members), self._captured.bindings, self._values
        )


def _first(numbers: tuple[int, ...]) -> Any:  # Any: None for a node without tensors
    return numbers[0] if numbers else None
