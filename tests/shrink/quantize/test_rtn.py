"""Round to nearest: the equation in loops, the ends, and against the coin."""

import numpy as np
import pytest
import torch
from hypothesis import given

from shrink.quantize.grids import matrices, naive_grid
from treadle.core.errors import CheckpointError
from treadle.shrink.quantize.base import Scheme
from treadle.shrink.quantize.methods.random import Random
from treadle.shrink.quantize.methods.rtn import RTN

GENERATOR = torch.Generator().manual_seed(0)


def error(method, weight, scheme) -> float:
    return float(
        np.square(method.quantize(weight, scheme, GENERATOR).floats() - weight.numpy()).sum()
    )


@given(matrices())
def test_every_weight_goes_to_the_nearest_code(drawn):
    weight, scheme = drawn
    found = RTN().quantize(weight, scheme, GENERATOR)
    scales, zeros = naive_grid(weight.numpy(), scheme)
    for row in range(weight.shape[0]):
        for column in range(weight.shape[1]):
            scale, zero = scales[row, column], zeros[row, column]
            codes = range(2**scheme.num_bits)
            best = min(abs(scale * (code - zero) - float(weight[row, column])) for code in codes)
            mine = abs(scale * (int(found.codes[row, column]) - zero) - float(weight[row, column]))
            assert mine <= best + 1e-6 * scale
    group = found.groups
    assert np.allclose(found.scales[:, group], scales, rtol=1e-6)
    assert np.array_equal(found.zeros[:, group], zeros)


@given(matrices())
def test_what_is_zero_stays_zero_and_nothing_is_cut_off(drawn):
    weight, scheme = drawn
    grid = RTN().quantize(weight, scheme, GENERATOR)
    values = grid.floats()
    assert (values[weight.numpy() == 0] == 0).all()
    steps = grid.scales.astype(np.float32)[:, grid.groups]
    assert (np.abs(values - weight.numpy()) <= 0.5001 * steps + 1e-6).all()


@pytest.mark.parametrize("is_symmetric", [True, False])
def test_limits(is_symmetric):
    scheme = Scheme(4, 4, is_symmetric, "F32")
    zeros = RTN().quantize(torch.zeros(2, 8), scheme, GENERATOR)
    assert (zeros.floats() == 0).all()
    assert (zeros.scales == 1).all()
    equal = torch.full((1, 4), 0.7)
    assert np.allclose(RTN().quantize(equal, scheme, GENERATOR).floats(), 0.7, rtol=1e-6)
    one = RTN().quantize(torch.tensor([[-3.0]]), Scheme(8, 0, is_symmetric, "F32"), GENERATOR)
    assert np.allclose(one.floats(), -3.0, rtol=1e-6)


def test_ties_go_to_the_even_code():
    weight = torch.tensor([[7.0, 0.5, 1.5, -0.5]])
    grid = RTN().quantize(weight, Scheme(4, 0, True, "F32"), GENERATOR)
    assert grid.floats().tolist() == [[7.0, 0.0, 2.0, 0.0]]


def test_scales_are_rounded_before_codes_are_chosen():
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    grid = RTN().quantize(weight, Scheme(4, 32, True, "BF16"), GENERATOR)
    scales = grid.scales.astype(np.float32)[:, grid.groups]
    nearest = np.rint(weight.numpy() / scales).clip(-8, 7) * scales
    assert np.array_equal(grid.floats(), nearest.astype(np.float32))


def test_a_scale_beyond_its_dtype_is_refused():
    with pytest.raises(CheckpointError, match="overflows float16, in which its scale is stored"):
        RTN().quantize(torch.full((1, 4), 1e7), Scheme(4, 0, True, "F16"), GENERATOR)


def test_it_beats_the_coin_and_more_bits_and_smaller_groups_help():
    weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(2))
    scheme = Scheme(4, 32, True, "F32")
    own = error(RTN(), weight, scheme)
    assert 3 * own < error(Random(), weight, scheme)
    assert error(RTN(), weight, scheme._replace(num_bits=8)) < own / 100
    assert own < error(RTN(), weight, scheme._replace(group_columns=128))
    assert error(RTN(), weight, scheme._replace(is_symmetric=False)) < own
