"""A captured step with the operators that a plan repeats, so that it can run."""

from typing import TYPE_CHECKING

from treadle.model.graph.schema import Graph, Operator

if TYPE_CHECKING:
    import torch

    from treadle.model.graph.capture import Captured

__all__ = ["repeat"]


def repeat(captured: "Captured", graph: Graph) -> "Captured":
    """Return `captured` with nodes for the operators of `graph` that it has not.

    Args:
        captured: A step as it was captured.
        graph: The same step with operators repeated, by `recompute`.
    """
    import torch

    writing = _Writing(captured, graph)
    members = tuple(writing.emit(operator) for operator in graph.operators)
    (output,) = captured.module.graph.find_nodes(op="output")
    writing.made.node_copy(output, lambda node: writing.kept(node))
    module = torch.fx.GraphModule(captured.module, writing.made)
    return captured._replace(graph=graph, module=module, members=members, values=writing.values)


class _Writing:
    """Copies nodes; of those that are repeated there are two, the kept one and the one again."""

    def __init__(self, captured: "Captured", graph: Graph) -> None:
        import torch

        self.made = torch.fx.Graph()
        self.values: dict[str, tuple[int, ...]] = {}
        self._captured = captured
        self._nodes = {node.name: node for node in captured.module.graph.nodes}
        self._members = {
            operator.name: names
            for operator, names in zip(captured.graph.operators, captured.members, strict=True)
        }
        own = {operator.name: operator for operator in captured.graph.operators}
        self._again_of: dict[int, int] = {}
        self._origin: dict[str, str] = {}
        for operator in graph.operators:
            if operator.name not in own:
                origin = operator.name.rpartition("@")[0]
                self._origin[operator.name] = origin
                self._again_of |= dict(zip(own[origin].outputs, operator.outputs, strict=True))
        self._kept: dict[torch.fx.Node, torch.fx.Node] = {}
        self._again: dict[torch.fx.Node, torch.fx.Node] = {}
        for node in captured.module.graph.nodes:
            if node.op in ("placeholder", "get_attr"):
                self.kept(node)

    def emit(self, operator: Operator) -> tuple[str, ...]:
        """Append an operator's nodes, reading what `operator` reads; return their names."""
        names = self._members[self._origin.get(operator.name, operator.name)]
        is_again = operator.name in self._origin
        target = self._again if is_again else self._kept
        found = []
        for name in names:
            node = self._nodes[name]
            copy = self.made.node_copy(
                node,
                lambda read: target[read] if read.name in names else self._read(read, operator),
            )
            target[node] = copy
            self._note(node, copy, is_again)
            found.append(copy.name)
        return tuple(found)

    def _read(self, node: "torch.fx.Node", operator: Operator) -> "torch.fx.Node":
        values = self._captured.values.get(node.name, ())
        is_again = any(self._again_of.get(value) in operator.inputs for value in values)
        return self.again(node) if is_again else self.kept(node)

    def kept(self, node: "torch.fx.Node") -> "torch.fx.Node":
        """Return the copy of a node, or of a view with what it views."""
        if node not in self._kept:
            self._kept[node] = self.made.node_copy(node, self.kept)
            self._note(node, self._kept[node], False)
        return self._kept[node]

    def again(self, node: "torch.fx.Node") -> "torch.fx.Node":
        """Return the repeated copy of a node, or of a view with what it views."""
        if node not in self._again:
            self._again[node] = self.made.node_copy(
                node, lambda read: self.again(read) if self._is_again(read) else self.kept(read)
            )
            self._note(node, self._again[node], True)
        return self._again[node]

    def _is_again(self, node: "torch.fx.Node") -> bool:
        return any(v in self._again_of for v in self._captured.values.get(node.name, ()))

    def _note(self, node: "torch.fx.Node", copy: "torch.fx.Node", is_again: bool) -> None:
        values = self._captured.values.get(node.name, ())
        self.values[copy.name] = tuple(self._again_of[v] if is_again else v for v in values)
