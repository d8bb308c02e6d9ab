"""Every operator of the table over its operand, bit by bit."""

import pytest
import torch

from treadle.model.graph.aliasing import ALIAS_SAFE

# Sizes that leave tails behind vectors, and rows longer than a kernel's block.
SHAPES = [(7, 33), (3, 5000)]


def uniform(shape, seed, dtype):
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return (drawn * 0.9 + 0.05).to(dtype)


def calls(name, shape, dtype):
    """Return each overload that is captured, with its arguments."""
    aten = torch.ops.aten

    def tensor(shape, seed):
        return uniform(shape, seed, dtype)

    def logical(shape, seed):
        return tensor(shape, seed) > 0.5

    a, b, c = (tensor(shape, seed) for seed in range(3))
    special = {
        "add": [(aten.add.out, (a, b))],
        "addcdiv": [(aten.addcdiv.out, (a, b, c))],
        "addcmul": [(aten.addcmul.out, (a, b, c))],
        "bitwise_and": [(aten.bitwise_and.Tensor_out, (logical(shape, 0), logical(shape, 1)))],
        "bitwise_or": [(aten.bitwise_or.Tensor_out, (logical(shape, 0), logical(shape, 1)))],
        "bitwise_not": [(aten.bitwise_not.out, (logical(shape, 0),))],
        "clamp": [(aten.clamp.out, (a, 0.2, 0.7)), (aten.clamp.Tensor_out, (a, b, c))],
        "clamp_max": [(aten.clamp_max.out, (a, 0.5))],
        "clamp_min": [(aten.clamp_min.out, (a, 0.5))],
        "gelu_backward": [(aten.gelu_backward.grad_input, (a, b))],
        "hardsigmoid_backward": [(aten.hardsigmoid_backward.grad_input, (a, b))],
        "hardswish_backward": [(aten.hardswish_backward.out, (a, b))],
        "hardtanh_backward": [(aten.hardtanh_backward.grad_input, (a, b, 0.1, 0.6))],
        "lerp": [(aten.lerp.Tensor_out, (a, b, c)), (aten.lerp.Scalar_out, (a, b, 0.3))],
        "logical_and": [(aten.logical_and.out, (logical(shape, 0), logical(shape, 1)))],
        "logical_not": [(aten.logical_not.out, (logical(shape, 0),))],
        "pow": [(aten.pow.Tensor_Scalar_out, (a, 3.0)), (aten.pow.Tensor_Tensor_out, (a, b))],
        "sigmoid_backward": [(aten.sigmoid_backward.grad_input, (a, b))],
        "silu_backward": [(aten.silu_backward.grad_input, (a, b))],
        "softplus_backward": [(aten.softplus_backward.grad_input, (a, b, 1, 20))],
        "tanh_backward": [(aten.tanh_backward.grad_input, (a, b))],
        "threshold": [(aten.threshold.out, (a, 0.5, 0.0))],
        "threshold_backward": [(aten.threshold_backward.grad_input, (a, b, 0.5))],
        "where": [(aten.where.self_out, (logical(shape, 0), a, b))],
        "_softmax": [(aten._softmax.out, (a, 1, False)), (aten._softmax.out, (a, 0, False))],
        "_log_softmax": [
            (aten._log_softmax.out, (a, 1, False)),
            (aten._log_softmax.out, (a, 0, False)),
        ],
        "_softmax_backward_data": [
            (aten._softmax_backward_data.out, (a, b, dim, dtype)) for dim in (0, 1)
        ],
        "_log_softmax_backward_data": [
            (aten._log_softmax_backward_data.out, (a, b, dim, dtype)) for dim in (0, 1)
        ],
        "addmm": [(aten.addmm.out, (a, tensor((shape[0], 40), 5), tensor((40, shape[1]), 6)))],
        "baddbmm": [
            (
                aten.baddbmm.out,
                (
                    tensor((2, *shape), 4),
                    tensor((2, shape[0], 40), 5),
                    tensor((2, 40, shape[1]), 6),
                ),
            )
        ],
    }
    if name in special:
        return special[name]
    out = getattr(aten, name).out
    needed = sum("Tensor" in str(argument.type) for argument in out._schema.arguments) - 1
    return [(out, (a, b)[:needed])]


@pytest.mark.parametrize("name", ALIAS_SAFE)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_result_over_an_operand_has_the_same_bits(name, shape, dtype):
    tried = 0
    for function, args in calls(name, shape, dtype):
        (out,) = [argument.name for argument in function._schema.arguments if argument.is_out]
        functional = torch.empty(0, dtype=args[0].dtype if name != "where" else dtype)
        expected = function(*args, **{out: functional}).clone()
        for place in ALIAS_SAFE[name]:
            operand = args[place] if place < len(args) else None
            if not isinstance(operand, torch.Tensor) or operand.dtype != expected.dtype:
                continue
            copied = [arg.clone() if isinstance(arg, torch.Tensor) else arg for arg in args]
            function(*copied, **{out: copied[place]})
            assert torch.equal(copied[place], expected), f"{function} over operand {place}"
            tried += 1
    assert tried
