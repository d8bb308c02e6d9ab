"""The fake values of nodes, where what traced a graph left some out."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["fill_values"]

_STATE = "rng_state_output"
"""In the names of placeholders that stand for a state of random numbers."""


def fill_values(module: "torch.fx.GraphModule") -> None:
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
