"""Running a captured step inside one buffer, every temporary at its planned place."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.core.errors import SettingsError
from treadle.model.graph.capture import Captured
from treadle.model.graph.execute import check_order, fill_inputs, make_tensors
from treadle.model.graph.nodes import tensors_of
from treadle.model.graph.out_forms import out_form
from treadle.model.graph.trace import STEP

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

__all__ = ["ALIGNMENT_BYTES", "ArenaLayout", "ArenaStep"]

ALIGNMENT_BYTES = 64
"""Every offset is a multiple of it, as PyTorch's CPU allocator aligns."""


class ArenaLayout(NamedTuple):
    """Where every temporary lies."""

    offsets: Mapping[int, int]
    """Value -> first byte; a result written over its operand has the operand's."""
    num_bytes: int


class _Call(NamedTuple):
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    copies: "tuple[Tensor, ...]"
    """Where results go that the function can only return."""


class ArenaStep:
    """Trains a module by a captured step whose temporaries all lie in one buffer.

    Since nothing ever moves, all tensors and views are made once; a step is a list of calls. An
    operator that cannot write into a given tensor computes aside, and its result is copied: the
    bytes that escape so are counted.
    """

    def __init__(
        self, captured: Captured, module: "nn.Module", order: Sequence[int], layout: ArenaLayout
    ) -> None:
        """Prepare all calls.

        Raises:
            SettingsError: The order is not topological, or a temporary has no place in the layout.
        """
        import torch

        check_order(captured, order)
        self._captured = captured
        self.tensors = make_tensors(captured, module)
        num_bytes = -(-layout.num_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        self._buffer = torch.empty(num_bytes, dtype=torch.uint8)
        self._placing = _Placing(captured, self.tensors, self._buffer, layout.offsets)
        operators = captured.graph.operators
        with torch.no_grad():
            self._calls = [
                self._placing.call(captured.members[index][0], operators[index].outputs)
                for index in order
            ]
            (output,) = captured.module.graph.find_nodes(op="output")
            (self._loss,) = [self._placing.real(node) for node in output.all_input_nodes]
        self.made_bytes = self._placing.made_bytes
        """Bytes that the operators of one step make."""
        self.escaped_bytes = self._placing.escaped_bytes
        """Those of them that were computed aside and copied."""

    @property
    def arena_bytes(self) -> int:
        """Bytes of the buffer."""
        return self._buffer.numel()

    def __call__(self, **data: "Tensor") -> "Tensor":
        """Run one step on a batch: update parameters, buffers and states; return the loss."""
        import torch

        fill_inputs(self._captured, self.tensors, data)
        self.tensors[STEP].add_(1)
        with torch.no_grad():
            for call in self._calls:
                result = call.function(*call.args, **call.kwargs)
                if call.copies:
                    for place, made in zip(call.copies, tensors_of(result), strict=True):
                        place.copy_(made)
            loss: Tensor = self._loss.clone()
        return loss


class _Placing:
    """Makes the tensors of all nodes at their places."""

    def __init__(
        self,
        captured: Captured,
        tensors: "Mapping[str, Tensor]",
        buffer: "Tensor",
        offsets: Mapping[int, int],
    ) -> None:
        self._captured, self._buffer, self._offsets = captured, buffer, offsets
        self._nodes = {node.name: node for node in captured.module.graph.nodes}
        self._real: dict[str, Any] = {  # Any: a tensor, or a tuple of some
            binding.node: tensors[binding.name] for binding in captured.bindings
        }
        self.made_bytes = self.escaped_bytes = 0

    def call(self, name: str, outputs: tuple[int, ...]) -> _Call:
        """Return how an operator runs into its places."""
        import torch
        from torch.utils import _pytree as pytree

        node = self._nodes[name]
        args, kwargs = pytree.tree_map_only(torch.fx.Node, self.real, (node.args, node.kwargs))
        if not outputs:
            if node.meta["val"] is not None:
                self._real[name] = args[0]  # an operator in place returns its first operand
            return _Call(node.target, args, kwargs, ())
        self._real[name] = pytree.tree_map_only(torch.Tensor, self._place(name), node.meta["val"])
        places = tuple(tensors_of(self._real[name]))
        num_bytes = sum(self._captured.graph.values[value].num_bytes for value in outputs)
        self.made_bytes += num_bytes
        form = out_form(node)
        if form is None or len(form.out_names) != len(places):
            self.escaped_bytes += num_bytes
            return _Call(node.target, args, kwargs, places)
        known = {key: value for key, value in kwargs.items() if key in form.takes}
        given = dict(zip(form.out_names, places, strict=True))
        return _Call(form.target, args, {**known, **given}, ())

    def _place(self, name: str) -> "Callable[[Tensor], Tensor]":
        numbers = iter(self._captured.values[name])

        def place(like: "Tensor") -> "Tensor":
            number = next(numbers)
            if number not in self._offsets:
                raise SettingsError(
                    f"The layout has no place for '{self._captured.graph.values[number].name}'; "
                    f"give the offset of every temporary."
                )
            first = self._offsets[number] // like.element_size()
            return self._buffer.view(like.dtype).as_strided(
                like.shape, like.stride(), first + like.storage_offset()
            )

        return place

    def real(self, node: "torch.fx.Node") -> Any:  # Any: a tensor, or a tuple of some
        """Return a node's tensors, making the views on the way."""
        import torch
        from torch.utils import _pytree as pytree

        if node.name not in self._real:
            if node.op == "get_attr":
                made: Any = getattr(self._captured.module, str(node.target))
            else:
                args, kwargs = pytree.tree_map_only(
                    torch.fx.Node, self.real, (node.args, node.kwargs)
                )
                made = node.target(*args, **kwargs)  # type: ignore[operator]  # a view
            self._real[node.name] = made
        return self._real[node.name]
