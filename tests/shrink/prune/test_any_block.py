"""Blocks by chance: a stream of the seed, whatever the blocks do."""

import torch

from shrink.prune.cases import normal
from treadle.shrink.prune.methods.any_block import AnyBlock


def test_the_seed_alone_decides():
    states = (normal(1, 2, 3, seed=0), normal(1, 2, 3, seed=1))
    one, same, other = (torch.Generator().manual_seed(seed) for seed in (1, 1, 2))
    first = [AnyBlock().score(states, 0.1, one) for _ in range(4)]
    assert first == [AnyBlock().score(None, 0.9, same) for _ in range(4)]
    assert first != [AnyBlock().score(None, 0.9, other) for _ in range(4)]
    assert len(set(first)) == 4
