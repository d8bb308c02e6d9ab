"""What can be read off one node of a traced step."""

from typing import TYPE_CHECKING, Any

from treadle.model.graph.update import writes

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = [
    "RNG_STATE",
    "draws",
    "has_effect",
    "is_random",
    "is_state",
    "tensors_of",
    "written_nodes",
]

RNG_STATE = "treadle_random."
"""Begins the names of the operators that read and set the state of random numbers."""
_DRAWS_AND_REMEMBERS = "run_and_save_rng_state"
"""AOTAutograd's operator around one that a checkpointed block repeats with the same numbers."""
_ATTENTION, _DROPOUT = "aten._scaled_dot_product", "dropout_p"


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
    """Return whether the node's place among those that use the stream of random numbers counts."""
    import torch

    target = node.target
    if str(target) == _DRAWS_AND_REMEMBERS or is_state(node):
        return True
    return (
        isinstance(target, torch._ops.OpOverload)
        and torch.Tag.nondeterministic_seeded in target.tags
    )


def draws(node: "torch.fx.Node") -> bool:
    """Return whether the node draws random numbers; attention without dropout does not."""
    import torch

    if not is_random(node) or is_state(node):
        return False
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or not str(target).startswith(_ATTENTION):
        return True
    names = [argument.name for argument in target._schema.arguments]
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    return bool(given.get(_DROPOUT, 0.0))


def is_state(node: "torch.fx.Node") -> bool:
    """Return whether the node reads or sets the state of random numbers."""
    return str(node.target).startswith(RNG_STATE)


def has_effect(node: "torch.fx.Node") -> bool:
    """Return whether a node without a result does something all the same."""
    return str(node.target).startswith(f"{RNG_STATE}set_")
