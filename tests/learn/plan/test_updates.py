"""When updates must wait."""

from learn.plan.cases import drawn_problem
from learn.plan.graphs import training_step
from treadle.learn.plan.bounds import reach_of
from treadle.learn.plan.problem import build_problem
from treadle.learn.plan.updates import what_blocks_updates


def test_clipping_by_the_global_norm_is_seen_and_named():
    problem = build_problem(training_step(4, clip=True))
    (note,) = what_blocks_updates(problem, reach_of(problem))
    assert "'norm' needs all gradients, and all 4 updates need it" in note
    assert "clip blocks early update" in note


def test_a_step_without_clipping_is_free():
    for num_layers in (1, 2, 6):
        problem = build_problem(training_step(num_layers))
        assert what_blocks_updates(problem, reach_of(problem)) == []
    problem = drawn_problem(0, 20)
    assert what_blocks_updates(problem, reach_of(problem)) == []
