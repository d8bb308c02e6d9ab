"""Counting what an operator computes."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from treadle.model.graph.nodes import tensors_of

if TYPE_CHECKING:
    import torch

__all__ = ["count_flops"]

_GROUPED = "transformers.grouped_mm_fallback"
_CPU_ATTENTION = "aten._scaled_dot_product_flash_attention_for_cpu"


def count_flops(node: "torch.fx.Node") -> int:
    """Return the floating-point operations of one node.

    Matrix products (also in groups), convolutions and attention by PyTorch's formulas (a
    multiplication and an addition are two); anything else as one for each element that it makes,
    an update as one for each element of its parameter.
    """
    import torch
    from torch.utils import _pytree as pytree
    from torch.utils import flop_counter as counter

    args, kwargs = pytree.tree_map_only(
        torch.fx.Node, lambda source: source.meta.get("val"), (node.args, node.kwargs)
    )
    value = node.meta.get("val")
    target, args, value = _inner(node.target, args, value)
    made = tensors_of(value)
    # PyTorch's table leaves its own CPU kernel of attention out.
    if str(target).startswith(_CPU_ATTENTION):
        is_backward = "_backward" in str(target)
        count: Callable[..., Any] = (
            counter.sdpa_backward_flop_count if is_backward else counter.sdpa_flop_count
        )
        return int(count(*(tensor.shape for tensor in args[: 4 if is_backward else 3])))
    if str(target).startswith(_GROUPED):
        rows, weight = args[:2]
        num_products = 2 if "_backward" in str(target) else 1
        return int(2 * rows.shape[0] * weight.shape[1] * weight.shape[2] * num_products)
    formula = counter.flop_registry.get(_functional(target))
    if formula is not None:
        return int(formula(*args, **kwargs, out_val=value))
    return sum(tensor.numel() for tensor in made or tensors_of(args)[:1])


def _inner(
    target: Any, args: tuple[Any, ...], value: Any
) -> tuple[Any, tuple[Any, ...], Any]:  # Any: of fx nodes
    """Return the operator, its arguments and its result where it runs within another one.

    AOTAutograd wraps random operators into ones that remember or set the state of random numbers.
    """
    import torch

    if isinstance(target, torch._ops.HigherOrderOperator):
        for place, one in enumerate(args[:2]):
            if isinstance(one, torch._ops.OpOverload):
                return one, args[place + 1 :], value[-1] if place == 0 else value
    return target, args, value


def _functional(target: Any) -> Any:  # Any: the target of an fx node
    """Return the packet of the operator that does not write in place, whose formula it shares."""
    import torch

    packet = getattr(target, "overloadpacket", None)
    name = str(packet).removeprefix("aten.")
    return getattr(torch.ops.aten, name[:-1], packet) if name.endswith("_") else packet
