"""Depth as worth: deeper is less."""

import torch

from treadle.shrink.prune.methods.shallow_first import ShallowFirst


def test_the_deeper_the_less():
    found = [ShallowFirst().score(None, depth, torch.Generator()) for depth in (0.0, 0.5, 0.9)]
    assert found == sorted(found, reverse=True)
    assert found[0] == 1
