"""The halves of a step as torch.compile hands them over: forward or backward, updates outside."""

from typing import TYPE_CHECKING, Any, NamedTuple

from treadle.core.errors import UnsupportedModelError
from treadle.model.graph.canonical import canonical
from treadle.model.graph.capture import Captured
from treadle.model.graph.nodes import tensors_of
from treadle.model.graph.trace import Binding, Traced

if TYPE_CHECKING:
    import torch

__all__ = ["SavedHalf", "capture_backward", "capture_forward"]

_STATE = "rng_state_output"
"""In the names of placeholders that stand for a state of random numbers."""


class SavedHalf(NamedTuple):
    """What the backward half must know of what the forward half returned."""

    values: dict[str, int]
    """Of each node returned, the forward graph's value in which it lies."""
    temporary: frozenset[int]
    """Those of the values that were made in the forward pass; the others are parameters or data."""


def capture_forward(module: "torch.fx.GraphModule") -> tuple[Captured, SavedHalf]:
    """Return the graph of a forward pass that AOTAutograd traced; what it returns lives on.

    Raises:
        UnsupportedModelError: A shape is symbolic.
    """
    captured = _capture(module, "forward", SavedHalf({}, frozenset()))
    (output,) = module.graph.find_nodes(op="output")
    values = {
        node.name: captured.values[node.name][0]
        for node in output.all_input_nodes
        if captured.values[node.name]
    }
    made = {value for value, it in enumerate(captured.graph.values) if it.kind == "temporary"}
    return captured, SavedHalf(values, frozenset(made))


def capture_backward(module: "torch.fx.GraphModule", saved: SavedHalf) -> Captured:
    """Return the graph of a backward pass that AOTAutograd traced.

    What the forward pass made and saved is a temporary that is there from the start and can die;
    the gradients live to the end.

    Raises:
        UnsupportedModelError: A shape is symbolic.
    """
    return _capture(module, "backward", saved)


def _capture(module: "torch.fx.GraphModule", name: str, saved: SavedHalf) -> Captured:
    _fill_values(module)
    bindings: list[Binding] = []
    first: dict[int, str] = {}
    same_storage: dict[str, str] = {}
    for node in module.graph.nodes:
        _require_fixed(node)
    for node in module.graph.find_nodes(op="placeholder"):
        value = saved.values.get(node.name)
        can_die = value in saved.temporary or "tangent" in node.name
        bindings.append(Binding(node.name, "temporary" if can_die else "data", node.name))
        if value is not None and first.setdefault(value, node.name) != node.name:
            same_storage[node.name] = first[value]
    tangent = next((binding.node for binding in bindings if "tangent" in binding.node), "")
    traced = Traced(module, tuple(bindings), tangent, same_storage)
    return Captured(*canonical(traced, name, None))


def _require_fixed(node: "torch.fx.Node") -> None:
    import torch

    value = node.meta.get("val")
    is_symbol = isinstance(value, torch.SymInt)
    tensors = tensors_of(value)
    symbolic = [one for one in tensors if any(isinstance(n, torch.SymInt) for n in one.shape)]
    if not is_symbol and not symbolic:
        return
    if node.op == "placeholder":
        raise UnsupportedModelError(
            f"The input '{node.name}' has the dynamic shape {getattr(value, 'shape', value)}, and "
            f"a plan needs fixed ones; pass dynamic=False to torch.compile, which then plans each "
            f"shape by itself, and pad what is ragged (a nested tensor) to one length."
        )
    raise UnsupportedModelError(
        f"The result of '{node.target}' has a shape or a value that depends on data, and a plan "
        f"needs fixed ones; use a form of fixed size, such as a mask instead of an index list."
    )


def _fill_values(module: "torch.fx.GraphModule") -> None:
    """Give every call of `module` its fake value, if one has none.

    AOTAutograd leaves out those of operators that it adds itself: with gradient checkpointing, the
    random ones that run again from a remembered state. All are made anew then, since which of them
    share a storage is read off them together.
    """
    import torch
    from torch.utils import _pytree as pytree

    calls = [node for node in module.graph.nodes if node.op == "call_function"]
    if all("val" in node.meta for node in calls):
        return
    values: dict[torch.fx.Node, Any] = {}  # Any: what nodes carry
    with _mode_of(module) as mode:
        for node in module.graph.nodes:
            if node.op == "placeholder":
                values[node] = node.meta["val"] = _state(node)
            elif node.op == "get_attr":
                found = getattr(module, str(node.target))
                is_tensor = isinstance(found, torch.Tensor)
                values[node] = mode.from_tensor(found) if is_tensor else found
            elif node.op == "call_function":
                args, kwargs = pytree.tree_map_only(
                    torch.fx.Node, values.__getitem__, (node.args, node.kwargs)
                )
                values[node] = node.meta["val"] = node.target(*args, **kwargs)


def _state(node: "torch.fx.Node") -> Any:  # Any: what nodes carry
    """Return a placeholder's value; that of a remembered state of random numbers in its true size.

    AOTAutograd gives that size a symbol, though it never changes.
    """
    import torch

    value = node.meta.get("val")
    if _STATE not in node.name or not isinstance(value, torch.Tensor):
        return value
    sizes = [getattr(getattr(size, "node", None), "hint", size) for size in value.shape]
    return torch.empty(sizes, dtype=value.dtype, device=value.device)


def _mode_of(module: "torch.fx.GraphModule") -> Any:  # Any: a mode of fake tensors
    """Return the mode in which the placeholders were made."""
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    values = [node.meta.get("val") for node in module.graph.find_nodes(op="placeholder")]
    modes = [value.fake_mode for value in values if isinstance(value, FakeTensor)]
    return modes[0] if modes else FakeTensorMode(allow_non_fake_inputs=True)
