"""From a traced step to the graph that plans are made of: views folded, phases named."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.core.errors import UnsupportedModelError
from treadle.model.graph.aliasing import donations, sums_gradients
from treadle.model.graph.flops import count_flops
from treadle.model.graph.nodes import (
    draws,
    has_effect,
    is_random,
    is_state,
    tensors_of,
    written_nodes,
)
from treadle.model.graph.schema import Graph, GraphValue, Kind, Operator, Phase
from treadle.model.graph.trace import Binding, Traced, TracedOptimizer
from treadle.model.graph.update import UpdateRule, writes

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Canonical", "canonical"]


class Canonical(NamedTuple):
    """The parts of a `Captured`."""

    graph: Graph
    module: "torch.fx.GraphModule"
    members: tuple[tuple[str, ...], ...]
    bindings: tuple[Binding, ...]
    values: dict[str, tuple[int, ...]]


def canonical(traced: Traced, name: str, by: TracedOptimizer | None) -> Canonical:
    """Return the graph of `traced` and how it maps to the nodes.

    Raises:
        UnsupportedModelError: A tensor of the trace has no storage of its own to plan for.
    """
    walk = _Walk(traced, by)
    for node in traced.module.graph.nodes:
        walk.visit(node)
    graph = Graph(name, tuple(walk.operators), tuple(walk.listed_values()))
    return Canonical(
        graph, traced.module, tuple(map(tuple, walk.members)), traced.bindings, walk.values_of
    )


class _Storages:
    """Numbers storages in the order in which they appear."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._next = 0
        # A storage that died could give its handle to another one.
        self._kept: list[Any] = []  # Any: untyped storages

    def number(self, tensor: "Tensor") -> int:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._numbers:
            self._kept.append(storage)
            self._numbers[storage._cdata] = self._next
            self._next += 1
        return self._numbers[storage._cdata]

    def join(self, tensor: "Tensor", number: int) -> None:
        """Give a storage the number of another one."""
        self._kept.append(tensor.untyped_storage())
        self._numbers[tensor.untyped_storage()._cdata] = number

    def __len__(self) -> int:
        return self._next


class _Walk:
    """Goes through the nodes in program order."""

    def __init__(self, traced: Traced, by: TracedOptimizer | None) -> None:
        self._by = by
        self._tangent, self._same_storage = traced.tangent, traced.same_storage
        self._bindings = {binding.node: binding for binding in traced.bindings}
        self._storages = _Storages()
        self._values: list[GraphValue] = []
        self._after_loss = False
        self._varying: set[int] = set()
        """Values that depend on a parameter or on an input of floats."""
        self._readers: dict[int, list[int]] = {}
        self._writer: dict[int, int] = {}
        self._last_draw: int | None = None
        self._operator_of: dict[str, int] = {}
        self._plain: dict[str, int] = {}
        """Of the nodes that make one value, and of single results of the others, the value."""
        self._handed_out: set[int] = set()
        self.operators: list[Operator] = []
        self.members: list[list[str]] = []
        self.values_of: dict[str, tuple[int, ...]] = {}

    def visit(self, node: "torch.fx.Node") -> None:
        """Take one node in."""
        if node.op == "output":
            self._handed_out = {
                value for source in node.all_input_nodes for value in self.values_of[source.name]
            }
            return
        self._after_loss = self._after_loss or node.name == self._tangent
        node.meta.setdefault("val", None)  # of what returns nothing
        tensors = self._tensors(node)
        if node.name in self._same_storage:
            self._storages.join(tensors[0], self.values_of[self._same_storage[node.name]][0])
        known = len(self._storages)
        self.values_of[node.name] = tuple(self._storages.number(tensor) for tensor in tensors)
        fresh = [number for number in dict.fromkeys(self.values_of[node.name]) if number >= known]
        if node.op in ("placeholder", "get_attr"):
            self._persistent(node, tensors, fresh)
        elif fresh or written_nodes(node) or has_effect(node):
            self._operator(node, tensors, fresh)
        else:
            self._view(node)

    def _tensors(self, node: "torch.fx.Node") -> "list[Tensor]":
        if node.op == "get_attr":
            held = getattr(node.graph.owning_module, str(node.target))
            tensors = tensors_of(held)
            _require_real(node, tensors)
            # Not a tensor: the graph of a branch of torch.cond and the like.
            node.meta["val"] = tensors[0] if tensors else held
            return _dense(node, tensors)
        return _dense(node, tensors_of(node.meta.get("val")))

    def _persistent(self, node: "torch.fx.Node", tensors: "list[Tensor]", fresh: list[int]) -> None:
        constant = Binding(node.name, "data", node.name)
        binding = self._bindings.get(node.name, constant)
        for number, tensor in zip(fresh, tensors, strict=False):
            self._values.append(_value(tensor, binding.kind, binding.name))
            is_read = binding is not constant and tensor.dtype.is_floating_point
            if binding.kind != "data" or is_read:
                self._varying.add(number)

    def _view(self, node: "torch.fx.Node") -> None:
        """Let a result of several be taken at once, so that the others can die."""
        import operator

        import torch

        source = getattr(node.args[0] if node.args else None, "name", "")
        if node.target is operator.getitem and source in self._operator_of:
            self.members[self._operator_of[source]].append(node.name)
            if isinstance(node.meta.get("val"), torch.Tensor):
                self._plain[node.name] = self.values_of[node.name][0]
            else:  # results of an operator within another one
                self._operator_of[node.name] = self._operator_of[source]
        elif node.target is torch.ops.aten.detach.default and source in self._plain:
            self._plain[node.name] = self._plain[source]

    def _operator(self, node: "torch.fx.Node", tensors: "list[Tensor]", fresh: list[int]) -> None:
        index = len(self.operators)
        inputs = self._inputs(node)
        written = {
            number for source in written_nodes(node) for number in self.values_of[source.name]
        }
        update = writes(node.target) >= 0
        phase = self._phase(node, inputs, written)
        made = {self._storages.number(tensor): tensor for tensor in reversed(tensors)}
        for place, number in enumerate(fresh):
            label = node.name if len(fresh) == 1 else f"{node.name}.{place}"
            self._values.append(_value(made[number], "temporary", label))
        if phase != "constant":
            self._varying.update(fresh)
        pairs = () if update else donations(node, self.values_of, fresh)
        sums = phase == "backward" and sums_gradients(node)
        self.operators.append(
            Operator(
                name=node.name,
                op=f"update.{self._by.name}" if self._by and update else str(node.target),
                phase=phase,
                inputs=inputs,
                outputs=tuple(fresh),
                after=self._after(index, node, inputs, written),
                scratch_bytes=self._scratch(node, self._by.rule) if self._by and update else 0,
                flops=count_flops(node),
                in_place=tuple(pair for pair in pairs if self._is_temporary(pair[0])),
                eager_in_place=tuple(
                    pair for pair in pairs if sums and pair[0] == self._plain_value(node.args[0])
                ),
                is_random=draws(node) or is_state(node),
            )
        )
        if len(fresh) == 1:
            self._plain[node.name] = fresh[0]
        elif written and (changed := self._plain_value(node.args[0])) is not None:
            self._plain[node.name] = changed
        self.members.append([node.name])
        self._operator_of[node.name] = index

    def _inputs(self, node: "torch.fx.Node") -> tuple[int, ...]:
        return tuple(
            dict.fromkeys(
                number for source in node.all_input_nodes for number in self.values_of[source.name]
            )
        )

    def _is_temporary(self, number: int) -> bool:
        return self._values[number].kind == "temporary"

    def _plain_value(self, source: Any) -> int | None:  # Any: an argument of an fx node
        """Return the value that an operator made whole; None of a view.

        The engine adds into no view, since a view holds its base.
        """
        return self._plain.get(getattr(source, "name", ""))

    def _phase(self, node: "torch.fx.Node", inputs: tuple[int, ...], written: set[int]) -> Phase:
        if writes(node.target) >= 0:
            return "update"
        is_fixed = self._varying.isdisjoint(inputs) and self._varying.isdisjoint(written)
        if is_fixed and not is_state(node):
            return "constant"
        return "backward" if self._after_loss else "forward"

    def _scratch(self, node: "torch.fx.Node", rule: UpdateRule) -> int:
        (parameter,) = self.values_of[str(node.args[0])]
        return rule.num_scratch * self._values[parameter].num_bytes

    def _after(
        self, index: int, node: "torch.fx.Node", inputs: tuple[int, ...], written: set[int]
    ) -> tuple[int, ...]:
        """Return what must run before though nothing is read of it.

        A write waits for the reads before it, a read for the write before it, and a draw of random
        numbers for the draw before it.
        """
        found: set[int] = set()
        for number in inputs:
            if number in self._writer:
                found.add(self._writer[number])
            if number in written:
                found.update(self._readers.get(number, ()))
                self._writer[number] = index
                self._readers[number] = []
            else:
                self._readers.setdefault(number, []).append(index)
        if is_random(node):
            found.update(() if self._last_draw is None else (self._last_draw,))
            self._last_draw = index
        return tuple(sorted(found - {index}))

    def listed_values(self) -> Iterator[GraphValue]:
        """Yield all values, those that the step returns marked."""
        for number, value in enumerate(self._values):
            handed_out = number in self._handed_out and value.kind == "temporary"
            yield value._replace(is_output=handed_out)


def _value(tensor: "Tensor", kind: Kind, name: str) -> GraphValue:
    return GraphValue(
        num_bytes=tensor.untyped_storage().nbytes(),
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=tuple(int(size) for size in tensor.shape),
        kind=kind,
        name=name,
        is_output=False,
    )


def _dense(node: "torch.fx.Node", tensors: "list[Tensor]") -> "list[Tensor]":
    import torch

    for tensor in tensors:
        if tensor.layout != torch.strided:
            layout = str(tensor.layout).removeprefix("torch.")
            raise UnsupportedModelError(
                f"The tensor '{node.name}' (of {node.target}) has the layout {layout}, whose bytes "
                f"depend on its values, and a plan needs fixed ones; make it dense: leave "
                f"sparse=True out of nn.Embedding and nn.EmbeddingBag (their gradients are sparse "
                f"by it), and to_sparse out of the step."
            )
    return tensors


def _require_real(node: "torch.fx.Node", tensors: "list[Tensor]") -> None:
    from torch._subclasses.fake_tensor import FakeTensor

    if any(isinstance(tensor, FakeTensor) for tensor in tensors):
        raise UnsupportedModelError(
            f"The step reads the tensor '{node.target}', which is neither a parameter nor a buffer "
            f"nor an input; register it by register_buffer."
        )
