"""What can be read off one node of a traced step."""

from typing import TYPE_CHECKING, Any

from treadle.model.graph.update import writes

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["is_random", "tensors_of", "written_nodes"]


def tensors_of(value: Any) -> "list[Tensor]":  # Any: what fx nodes carry as their value
    """Return the tensors in a node's value, in order."""
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors_of(item)]
    return []


def written_nodes(node: "torch.fx.Node") -> "list[torch.fx.Node]":
    """Return the argument nodes whose tensors the operator changes."""
    import torch
    from torch.utils import _pytree as pytree

    num_states = writes(node.target)
    if num_states >= 0:
        parameter, gradient, *states = node.all_input_nodes[: 2 + num_states]
        scaled = [gradient] if node.kwargs["scale"] is not None else []
        return [parameter, *states, *scaled]
    if not isinstance(node.target, torch._ops.OpOverload):
        return []
    found = []
    for place, argument in enumerate(node.target._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name)
            found += [leaf for leaf in pytree.tree_leaves(given) if isinstance(leaf, torch.fx.Node)]
    return found


def is_random(node: "torch.fx.Node") -> bool:
    """Return whether the node draws from the global stream of random numbers."""
    import torch

    target = node.target
    return (
        isinstance(target, torch._ops.OpOverload)
        and torch.Tag.nondeterministic_seeded in target.tags
    )
