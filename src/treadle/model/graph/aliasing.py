"""Which operators may write their result over an operand, and which do so by themselves."""

from typing import TYPE_CHECKING

from treadle.model.graph.out_forms import out_form

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["ALIAS_SAFE", "donations", "sums_gradients"]

_ALL = (0, 1, 2, 3)
"""Every tensor among the first arguments."""

ALIAS_SAFE: dict[str, tuple[int, ...]] = {
    # Elementwise kernels read an element of each operand before they write it.
    **dict.fromkeys(
        [
            "abs", "add", "addcdiv", "addcmul", "bitwise_and", "bitwise_not", "bitwise_or",
            "clamp", "clamp_max", "clamp_min", "cos", "div", "elu", "erf", "exp", "expm1", 
            "gelu", "gelu_backward", "hardsigmoid", "hardsigmoid_backward", "hardswish",
            "hardswish_backward", "hardtanh", "hardtanh_backward", "leaky_relu", "lerp", "log",
            "log1p", "logical_and", "logical_not", "maximum", "minimum", "mul", "neg", "pow",
            "reciprocal", "relu", "rsqrt", "sigmoid", "sigmoid_backward",
            "sign", "silu", "silu_backward", "sin", "softplus", "softplus_backward", "sqrt",
            "square", "sub", "tanh", "tanh_backward", "threshold", "threshold_backward", "where",
        ],
        _ALL,
    ),
    # Row by row: a row's maximum or sum is taken before the row is written.
    "_softmax": (0,),
    "_log_softmax": (0,),
    "_softmax_backward_data": (0,),
    "_log_softmax_backward_data": (0,),
    # beta * input is where the product is accumulated
    "addmm": (0,),
    "baddbmm": (0,),
}  # fmt: skip
"""Name of an aten operator -> the operands over which its CPU kernel may write its result.

The tests run each of them over its operand, bit by bit against a result of its own.
"""


def donations(
    node: "torch.fx.Node", values_of: dict[str, tuple[int, ...]], fresh: list[int]
) -> tuple[tuple[int, int], ...]:
    """Return the pairs (operand's value, result's value) where the one may be written over."""
    import torch

    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or len(fresh) != 1:
        return ()
    made = node.meta["val"]
    if not isinstance(made, torch.Tensor) or target.namespace != "aten":
        return ()
    if out_form(node) is None:
        return ()
    places = ALIAS_SAFE.get(target._schema.name.removeprefix("aten::"), ())
    sources = [arg for arg in node.args if isinstance(arg, torch.fx.Node)]
    found: dict[tuple[int, int], None] = {}
    for place in places:
        operand = node.args[place] if place < len(node.args) else None
        if not isinstance(operand, torch.fx.Node) or not _same_place(operand.meta["val"], made):
            continue
        (number,) = values_of[operand.name]
        # Read through another view as well, an element could be overwritten before it is read.
        views = [source for source in sources if number in values_of[source.name]]
        if all(_same_place(view.meta["val"], made) for view in views):
            found[number, fresh[0]] = None
    return tuple(found)


def _same_place(operand: object, made: "Tensor") -> bool:
    """Return whether each element of the result lies where the operand's element lies."""
    import torch

    return (
        isinstance(operand, torch.Tensor)
        and operand.dtype == made.dtype
        and operand.shape == made.shape
        and operand.stride() == made.stride()
        and operand.storage_offset() == made.storage_offset() == 0
        and operand.untyped_storage().nbytes() == made.untyped_storage().nbytes()
    )


def sums_gradients(node: "torch.fx.Node") -> bool:
    """Return whether a backward node is the engine's own sum of two gradients of one tensor.

    Where nothing else holds the first, the engine adds the second into it.
    """
    import torch

    if node.target is not torch.ops.aten.add.Tensor or node.kwargs:
        return False
    values = [arg.meta["val"] if isinstance(arg, torch.fx.Node) else None for arg in node.args]
    return all(
        isinstance(value, torch.Tensor) and value.shape == node.meta["val"].shape
        for value in values
    )
