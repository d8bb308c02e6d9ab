"""Checkpointed blocks draw the same numbers again: the state of random numbers in the graph.

A checkpointed block remembers the state before it ran and puts it back before it runs again. Traced
without that, dropout would draw another mask in the backward pass, and gradients would be wrong.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from treadle.model.graph.nodes import RNG_STATE, draws

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["drop_idle_states", "traced_states"]


class _Operators(NamedTuple):
    get: "torch._ops.OpOverload"
    set: "torch._ops.OpOverload"


@cache
def _operators() -> _Operators:
    """Return operators that read and set the state of the global stream."""
    import torch
    from torch import Tensor
    from torch.fx.node import has_side_effect

    namespace = RNG_STATE.partition(".")[0]

    @torch.library.custom_op(f"{namespace}::get_rng_state", mutates_args=())
    def get_state() -> Tensor:
        return torch.default_generator.get_state()

    @torch.library.custom_op(f"{namespace}::set_rng_state", mutates_args=())
    def set_state(state: Tensor) -> None:
        torch.default_generator.set_state(state.contiguous().clone())

    size = len(torch.default_generator.get_state())
    get_state.register_fake(lambda: torch.empty(size, dtype=torch.uint8))
    set_state.register_fake(lambda state: None)
    operators = torch.ops.treadle_random
    found = _Operators(operators.get_rng_state.default, operators.set_rng_state.default)
    has_side_effect(found.set)
    return found


@contextmanager
def traced_states() -> Iterator[None]:
    """Let reading and setting the state of random numbers be operators of what is traced."""
    import torch

    operators = _operators()
    before = torch.get_rng_state, torch.set_rng_state

    def set_state(state: "Tensor") -> None:
        operators.set(state)

    torch.get_rng_state, torch.set_rng_state = operators.get, set_state  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.get_rng_state, torch.set_rng_state = before


def drop_idle_states(graph: "torch.fx.Graph") -> None:
    """Leave the states out of a graph that draws nothing."""
    operators = _operators()
    if any(draws(node) for node in graph.nodes):
        return
    for target in (operators.set, operators.get):
        for node in graph.find_nodes(op="call_function", target=target):
            if not node.users:
                graph.erase_node(node)
