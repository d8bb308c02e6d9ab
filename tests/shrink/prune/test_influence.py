"""Block influence: the equation in loops, its limits, and that it finds what does least."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shrink.prune.cases import SEEDS, normal
from treadle.shrink.prune.methods.any_block import AnyBlock
from treadle.shrink.prune.methods.influence import Influence

GENERATOR = torch.Generator()


def naive(before, after):
    cosines = []
    rows = (some.reshape(-1, some.shape[-1]).tolist() for some in (before, after))
    for x, y in zip(*rows, strict=True):
        product = math.fsum(a * b for a, b in zip(x, y, strict=True))
        cosines.append(product / math.hypot(*x) / math.hypot(*y))
    return 1 - math.fsum(cosines) / len(cosines)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 6), SEEDS)
def test_it_is_one_minus_the_mean_cosine(batch, seq, hidden, seed):
    before, after = (normal(batch, seq, hidden, seed=seed + n) for n in (0, 1))
    found = Influence().score((before, after), 0.5, GENERATOR)
    assert found == pytest.approx(naive(before, after), abs=1e-5)


def test_a_block_that_does_nothing_is_worth_nothing_and_one_that_turns_round_most():
    states = normal(1, 5, 8, seed=0)
    assert Influence().score((states, 2 * states), 0.5, GENERATOR) == pytest.approx(0, abs=1e-6)
    assert Influence().score((states, -states), 0.5, GENERATOR) == pytest.approx(2)
    assert Influence().score((states, 0 * states), 0.5, GENERATOR) == 1


def test_it_ranks_blocks_by_what_they_add_and_chance_does_not():
    states = normal(1, 50, 16, seed=0)
    changed = [(states, states + size * normal(1, 50, 16, seed=9)) for size in (0.1, 0.5, 2.0)]
    for score in (Influence(), AnyBlock()):
        drawn = torch.Generator().manual_seed(2)
        found = [score.score(some, 0.5, drawn) for some in changed]
        assert (found == sorted(found)) == isinstance(score, Influence)
