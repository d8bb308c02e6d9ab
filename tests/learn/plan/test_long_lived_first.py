from learn.plan.cases import arena, blocks, drawn_blocks, generator
from treadle.learn.plan.fitting import arena_of, fit
from treadle.learn.plan.methods.long_lived_first import LongLivedFirst


def test_reference_the_longest_lie_lowest():
    found = blocks((0, 2, 64), (1, 9, 64), (0, 5, 64), (3, 4, 64))
    assert LongLivedFirst().place(found, generator()).offsets == (128, 0, 64, 128)


def test_limits_of_equal_lives_the_larger_comes_first():
    found = blocks((0, 3, 64), (0, 3, 128))
    assert LongLivedFirst().place(found, generator()).offsets == (128, 0)


def test_meaning_it_beats_a_random_sequence():
    found = drawn_blocks(1, 80)
    drawn = [
        arena_of(found, fit(found, generator(seed).permutation(len(found)).tolist()))
        for seed in range(20)
    ]
    assert arena(LongLivedFirst(), found) < sum(drawn) / len(drawn)
