import pytest

from learn.plan.cases import arena, drawn_blocks
from learn.plan.naive import naive_live_bytes
from treadle.learn.plan.fitting import arena_of, fit
from treadle.learn.plan.methods.best_fit import BestFit
from treadle.learn.plan.methods.hill_climb import HillClimb
from treadle.learn.plan.replay import MemoryBlock


@pytest.mark.parametrize("seed", range(8))
def test_reference_it_only_climbs(seed):
    found = drawn_blocks(seed)
    arenas = [arena(HillClimb(num_attempts=n), found, seed) for n in (0, 5, 20, 80)]
    assert arenas[0] == arena(BestFit(), found)
    assert arenas == sorted(arenas, reverse=True)


def test_limits_it_stops_where_nothing_can_be_smaller():
    found = [MemoryBlock((0,), 0, 1, 64), MemoryBlock((1,), 2, 3, 64)]
    assert arena(HillClimb(), found) == 64


def test_meaning_it_beats_as_many_random_sequences():
    from learn.plan.cases import generator

    wins = 0
    for seed in range(8):
        found = drawn_blocks(seed, 40)
        drawn = min(
            arena_of(found, fit(found, generator(s).permutation(len(found)).tolist()))
            for s in range(50)
        )
        wins += arena(HillClimb(num_attempts=50), found) <= drawn
        assert arena(HillClimb(), found) >= naive_live_bytes(found)
    assert wins >= 7
