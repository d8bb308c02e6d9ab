from learn.plan.cases import arena, blocks, drawn_blocks, generator
from learn.plan.graphs import training_step
from learn.plan.naive import naive_live_bytes
from treadle.learn.plan.fitting import arena_of, fit
from treadle.learn.plan.methods.best_fit import BestFit
from treadle.learn.plan.methods.nested import Nested
from treadle.learn.plan.problem import build_problem
from treadle.learn.plan.replay import blocks_of


def test_reference_brackets_lie_in_the_order_in_which_they_open():
    """Small outer activations, which best fit by size would put on top of the large inner ones."""
    found = blocks((0, 11, 64), (1, 10, 128), (2, 9, 256), (4, 6, 64), (5, 5, 64))
    offsets = Nested().place(found, generator()).offsets
    assert arena(Nested(), found) == naive_live_bytes(found)
    assert arena(BestFit(), found) == naive_live_bytes(found)
    wide = blocks((0, 11, 64), (1, 10, 128), (2, 9, 256), (3, 3, 512), (5, 5, 576))
    offsets = Nested().place(wide, generator()).offsets
    assert sorted(offsets[:3]) == list(offsets[:3]) or arena(BestFit(), wide) == arena(
        Nested(), wide
    )


def test_limits_nothing_nests():
    found = blocks((0, 0, 64), (1, 1, 128), (2, 2, 64))
    assert arena(Nested(), found) == 128


def test_it_is_never_worse_than_best_fit():
    for seed in range(20):
        found = drawn_blocks(seed, 30)
        assert arena(Nested(), found) <= arena(BestFit(), found)


def test_meaning_a_step_has_no_holes():
    problem = build_problem(training_step(8, batch=32))
    found = blocks_of(problem, range(len(problem.tasks)))
    assert arena(Nested(), found) == naive_live_bytes(found)
    drawn = arena_of(found, fit(found, generator(0).permutation(len(found)).tolist()))
    assert arena(Nested(), found) < drawn


def test_meaning_the_stack_helps_where_best_fit_leaves_holes():
    wins = [arena(Nested(), b) < arena(BestFit(), b) for b in map(drawn_blocks, range(20))]
    assert any(wins)
