"""The control: entries by chance, unequal budgets that add up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.kept import cached_of, keep_of
from treadle.runtime.evict.cached import Cached
from treadle.runtime.evict.methods.random import Random


def cached(num_heads: int, num_tokens: int) -> Cached:
    positions = np.tile(np.arange(num_tokens, dtype=np.int32), (num_heads, 1))
    return cached_of(positions, (num_heads,), num_tokens)


@given(
    heads=st.integers(1, 12),
    budget=st.integers(1, 20),
    num_tokens=st.integers(1, 60),
    spread=st.sampled_from([0.0, 0.5, 0.9]),
)
def test_budgets_add_up(heads, budget, num_tokens, spread):
    kept = keep_of(Random(spread=spread), cached(heads, num_tokens), budget)
    counts = kept.sum(axis=1)
    assert counts.sum() <= budget * heads
    if spread == 0:
        assert counts.tolist() == [min(budget, num_tokens)] * heads


def test_heads_get_unequal_shares_that_stay_theirs():
    first = keep_of(Random(), cached(6, 200), 50).sum(axis=1)
    again = keep_of(Random(), cached(6, 300), 50).sum(axis=1)
    assert len(set(first.tolist())) > 3
    assert first.tolist() == again.tolist()
    assert first.sum() >= 6 * 50 - 6
    assert first.tolist() != keep_of(Random(seed=1), cached(6, 200), 50).sum(axis=1).tolist()


def test_the_order_of_entries_does_not_matter():
    """A cache that was compacted has them in another order, with empty places behind."""
    whole = cached(3, 40)
    order = np.random.default_rng(0).permutation(40)
    positions = np.pad(whole.positions[:, order], ((0, 0), (0, 5)), constant_values=-1)
    mixed = cached_of(positions, (3,), 40)

    def kept(found: Cached) -> list[list[int]]:
        is_kept = keep_of(Random(), found, 9)
        return [sorted(row[own]) for row, own in zip(found.positions, is_kept, strict=True)]

    assert kept(whole) == kept(mixed)


@pytest.mark.parametrize("place", [0, 20, 39])
def test_no_place_is_preferred(place):
    """Over many seeds each entry stays as often as the budget says, to four standard deviations."""
    stays = [keep_of(Random(seed=s, spread=0), cached(4, 40), 10)[:, place] for s in range(200)]
    share, deviation = np.mean(stays), np.sqrt(0.25 * 0.75 / 800)
    assert abs(share - 0.25) < 4 * deviation
