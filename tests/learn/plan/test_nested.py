from learn.plan.cases import arena, blocks, drawn_blocks, generator
from learn.plan.graphs import training_step
from learn.plan.naive import naive_live_bytes
from treadle.learn.plan.fitting import arena_of, fit
from treadle.learn.plan.methods.best_fit import BestFit
from treadle.learn.plan.methods.nested import Nested, _repaired, _stack
from treadle.learn.plan.problem import build_problem
from treadle.learn.plan.replay import blocks_of


def naive_stack(found):
    """Lay brackets in the order in which they open, each above those that are open; then the rest
    by size, each into the smallest hole."""
    middle = max(range(12), key=lambda t: sum(b.num_bytes for b in found if b.start <= t <= b.end))
    opened = [i for i, b in enumerate(found) if b.start < middle < b.end]
    offsets, top = {}, 0
    for index in sorted(opened, key=lambda i: (found[i].start, -found[i].end)):
        offsets[index] = top
        top += found[index].num_bytes
    return offsets


def test_reference_brackets_lie_in_the_order_in_which_they_open():
    brackets = [(t, 11 - t, 64 * (t + 1)) for t in range(5)]
    found = blocks(*brackets, (5, 5, 64), (6, 6, 128))
    stack = naive_stack(found)
    assert _stack(found) == stack == {0: 0, 1: 64, 2: 192, 3: 384, 4: 640}
    offsets = _repaired(found, stack, 0)
    assert offsets[:5] == tuple(stack.values())
    assert set(offsets[5:]) == {960}
    assert arena(Nested(), found) == naive_live_bytes(found)


def test_limits_what_does_not_nest_is_not_in_the_stack():
    found = blocks((0, 6, 64), (1, 8, 64), (2, 5, 640), (3, 3, 64), (4, 4, 64))
    assert _stack(found) == {0: 0, 2: 64}, "the second block outlives the first"


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
    drawn = [drawn_blocks(seed) for seed in range(20)]
    assert any(arena(Nested(num_repairs=0), b) < arena(BestFit(), b) for b in drawn)


def test_meaning_repairs_help_further():
    drawn = [drawn_blocks(seed, 40) for seed in range(12)]
    plain = [arena(Nested(num_repairs=0), b) for b in drawn]
    repaired = [arena(Nested(), b) for b in drawn]
    assert all(a <= b for a, b in zip(repaired, plain, strict=True))
    assert sum(repaired) < sum(plain)
