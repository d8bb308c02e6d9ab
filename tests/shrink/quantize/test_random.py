"""The coin: one of the two neighbours, each as often."""

import numpy as np
import torch
from hypothesis import given

from shrink.quantize.grids import matrices, naive_grid
from treadle.shrink.quantize.base import Scheme
from treadle.shrink.quantize.methods.random import Random


@given(matrices())
def test_every_weight_goes_to_one_of_its_neighbours(drawn):
    weight, scheme = drawn
    found = Random().quantize(weight, scheme, torch.Generator().manual_seed(3))
    scales, zeros = naive_grid(weight.numpy(), scheme)
    places = weight.numpy() / scales + zeros
    codes = found.codes.astype(float)
    top = 2**scheme.num_bits - 1
    low, high = np.floor(places - 1e-4).clip(0, top), np.ceil(places + 1e-4).clip(0, top)
    assert ((codes == low) | (codes == high) | (np.abs(codes - places) < 1e-3)).all()


def test_the_coin_is_fair_and_seeded():
    weight = torch.cat([torch.tensor([[7.0]]), torch.full((1, 4095), 0.25)], dim=1)
    scheme = Scheme(4, 0, True, "F32")
    codes = [
        Random().quantize(weight, scheme, torch.Generator().manual_seed(seed)).codes
        for seed in (1, 1, 2)
    ]
    assert np.array_equal(codes[0], codes[1])
    assert not np.array_equal(codes[0], codes[2])
    assert 0.45 < (codes[0][0, 1:] == 9).mean() < 0.55
    assert codes[0][0, 0] == 15, "a weight on a code keeps it"
