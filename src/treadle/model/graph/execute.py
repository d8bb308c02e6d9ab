"""Running a captured step in another order."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from treadle.core.errors import DataError, SettingsError
from treadle.model.graph.capture import Captured
from treadle.model.graph.inputs import flat_tensors
from treadle.model.graph.out_forms import out_form
from treadle.model.graph.trace import STEP

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = ["ReorderedStep", "check_order", "fill_inputs", "make_tensors", "reordered"]


def make_tensors(captured: Captured, module: "nn.Module") -> "dict[str, Tensor]":
    """Return the tensors that a step works on, by name: `module`'s own, and new states of zeros.

    Parameters and buffers share the module's memory, so that training the step trains the module.

    Raises:
        SettingsError: The module lacks a parameter of the graph, or has it in another shape.
    """
    import torch

    own: dict[str, Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    placeholders = {
        node.name: node.meta["val"] for node in captured.module.graph.find_nodes(op="placeholder")
    }
    found: dict[str, Tensor] = {}
    for binding in captured.bindings:
        like = placeholders[binding.node]
        if binding.name in own and binding.kind != "data":
            found[binding.name] = own[binding.name].detach()
        elif binding.kind == "parameter":
            raise SettingsError(
                f"The module has no parameter '{binding.name}'; give the one that was captured."
            )
        else:
            found[binding.name] = torch.zeros(like.shape, dtype=like.dtype)
        _check_like(binding.name, found[binding.name], like)
    return found


def _check_like(name: str, tensor: "Tensor", like: "Tensor") -> None:
    if tensor.shape != like.shape or tensor.dtype != like.dtype:
        raise SettingsError(
            f"'{name}' is {tensor.dtype} of {tuple(tensor.shape)}, but {like.dtype} of "
            f"{tuple(like.shape)} was captured; a step has fixed shapes: capture it again."
        )


def fill_inputs(
    captured: Captured, tensors: "Mapping[str, Tensor]", data: Mapping[str, Any]
) -> None:
    """Copy a batch to where the step reads it; what is no tensor was fixed by the capture.

    Raises:
        DataError: An input is missing or unknown, or has another shape than was captured.
    """
    names = {binding.name for binding in captured.bindings if binding.kind == "data"}
    data = flat_tensors(data)
    if names != set(data):
        raise DataError(
            f"The batch holds {', '.join(sorted(data)) or 'nothing'}, the step reads "
            f"{', '.join(sorted(names))}; give exactly these."
        )
    for name, value in data.items():
        if value.shape != tensors[name].shape:
            raise DataError(
                f"'{name}' has the shape {tuple(value.shape)}, but {tuple(tensors[name].shape)} "
                f"was captured; pad the batch, or capture the step for this shape."
            )
        tensors[name].copy_(value)


def check_order(captured: Captured, order: Sequence[int]) -> None:
    """Check that `order` runs every operator once, after what it needs.

    Raises:
        SettingsError: It does not; the message names the operator.
    """
    operators = captured.graph.operators
    if sorted(order) != list(range(len(operators))):
        raise SettingsError(
            f"The order has {len(order)} entries for {len(operators)} operators; give each "
            f"operator's index once."
        )
    place = {index: position for position, index in enumerate(order)}
    for index, before in enumerate(captured.graph.predecessors()):
        late = [other for other in before if place[other] > place[index]]
        if late:
            raise SettingsError(
                f"The order runs '{operators[index].name}' before '{operators[late[0]].name}', "
                f"which it needs; give a topological order of the graph."
            )


def _check_donated(captured: Captured, pairs: Sequence[tuple[int, int]]) -> None:
    values = captured.graph.values
    allowed = {pair for operator in captured.graph.operators for pair in operator.in_place}
    for operand, result in pairs:
        if (operand, result) not in allowed:
            raise SettingsError(
                f"'{values[result].name}' cannot be written over '{values[operand].name}'; donate "
                f"pairs of an operator's in_place."
            )


def reordered(
    captured: Captured,
    order: Sequence[int],
    donated: Iterable[tuple[int, int]] = (),
    *,
    boxed: bool = True,
) -> "torch.fx.GraphModule":
    """Return the step as a module that runs its operators in `order`.

    It drops each temporary after its last use. If `boxed`, it takes one list of tensors (those of
    `bindings`) and empties it, so that inputs can die; else it takes them one by one. A result of
    `donated` (pairs of `in_place`) is written over the operand.

    Raises:
        SettingsError: The order is not topological, or a pair cannot be donated.
    """
    import torch
    from torch.fx.graph import _BoxedCodeGen

    check_order(captured, order)
    pairs = list(donated)
    _check_donated(captured, pairs)
    graph = _Emission(captured, {output: operand for operand, output in pairs})
    for index in order:
        for member in captured.members[index]:
            graph.emit(member)
    graph.finish()
    if boxed:
        graph.made.set_codegen(_BoxedCodeGen())
    return torch.fx.GraphModule(captured.module, graph.made)


class _Emission:
    """Builds a graph by copying nodes, each after the views that it reads."""

    def __init__(self, captured: Captured, donors: dict[int, int]) -> None:
        import torch

        self.made = torch.fx.Graph()
        self._captured, self._donors = captured, donors
        self._nodes = {node.name: node for node in captured.module.graph.nodes}
        self._copies: dict[torch.fx.Node, torch.fx.Node] = {}
        for node in captured.module.graph.nodes:
            if node.op in ("placeholder", "get_attr"):
                self._copies[node] = self.made.node_copy(node, self._copies.__getitem__)

    def emit(self, name: str) -> None:
        """Append a node and the views before it that nothing has read yet."""
        waiting = [self._nodes[name]]
        while waiting:
            node = waiting[-1]
            missing = [source for source in node.all_input_nodes if source not in self._copies]
            if missing:
                waiting += missing
                continue
            waiting.pop()
            if node not in self._copies:
                self._copies[node] = self.made.node_copy(node, self._copies.__getitem__)
                self._donate(node)

    def _donate(self, node: "torch.fx.Node") -> None:
        numbers = self._captured.values[node.name]
        form = out_form(node) if len(numbers) == 1 and numbers[0] in self._donors else None
        if form is None:
            return
        donor = self._donors[numbers[0]]
        operand = next(
            source for source in node.all_input_nodes if donor in self._captured.values[source.name]
        )
        copy = self._copies[node]
        copy.target = form.target
        copy.kwargs = {
            **{key: value for key, value in copy.kwargs.items() if key in form.takes},
            form.out_names[0]: self._copies[operand],
        }
        self._copies[node] = self._copies[operand]

    def finish(self) -> None:
        """Return what the captured step returns."""
        (output,) = self._captured.module.graph.find_nodes(op="output")
        for source in output.all_input_nodes:
            self.emit(source.name)
        self.made.node_copy(output, self._copies.__getitem__)


class ReorderedStep:
    """Trains a module by a captured step, in an order of one's own; memory is PyTorch's affair."""

    def __init__(
        self,
        captured: Captured,
        module: "nn.Module",
        order: Sequence[int] | None = None,
        donated: Iterable[tuple[int, int]] = (),
    ) -> None:
        self._captured = captured
        self.tensors = make_tensors(captured, module)
        chosen = range(len(captured.graph.operators)) if order is None else order
        self._run = reordered(captured, chosen, donated)

    def __call__(self, **data: Any) -> "Tensor":  # Any: what was captured
        """Run one step on a batch: update parameters, buffers and states; return the loss."""
        import torch

        fill_inputs(self._captured, self.tensors, data)
        self.tensors[STEP].add_(1)
        with torch.no_grad():
            loss: Tensor = self._run(
                [self.tensors[binding.name] for binding in self._captured.bindings]
            )
        return loss
