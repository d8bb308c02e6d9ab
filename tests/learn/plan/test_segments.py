"""Separators and mirrors of steps whose structure is known."""

import pytest
from hypothesis import given, settings

from learn.plan.cases import empty_problem
from learn.plan.graphs import graphs, training_step
from learn.plan.naive import is_topological
from treadle.learn.plan.bounds import reach_of
from treadle.learn.plan.problem import build_problem
from treadle.learn.plan.segments import segments_of


def parted(problem):
    return segments_of(problem, reach_of(problem))


def test_every_forward_task_of_a_chain_is_a_separator():
    problem = build_problem(training_step(4))
    found = parted(problem)
    names = [problem.tasks[t].name for t in found.separators]
    assert names == ["mm0", "act0", "mm1", "act1", "mm2", "act2", "mm3", "act3"]


def test_a_separator_is_before_or_after_all_others_of_the_forward_pass():
    problem = build_problem(training_step(3))
    reach = reach_of(problem)
    forward = [t for t, task in enumerate(problem.tasks) if task.phase == "forward"]
    for task in parted(problem).separators:
        assert all(reach.is_before(task, t) or reach.is_before(t, task) for t in forward)


def test_the_backward_pass_mirrors_the_forward_pass():
    """Layer after layer from the last: its helper, weight gradient and update lie together."""
    problem = build_problem(training_step(4))
    place = {
        problem.tasks[task].name: number
        for number, part in enumerate(parted(problem).parts)
        for task in part
    }
    for layer in range(1, 4):
        assert place[f"dact{layer}"] < place[f"dact{layer - 1}"]
        assert place[f"update{layer}"] <= place[f"dact{layer - 1}"]
        assert place[f"mm{layer}"] < place[f"slope{layer}"] <= place[f"dact{layer}"]


@settings(max_examples=80, deadline=None)
@given(graph=graphs(12))
def test_the_parts_make_an_order_of_any_graph(graph):
    problem = build_problem(graph)
    assert is_topological(problem, parted(problem).order())


@pytest.mark.parametrize("clip", [False, True])
def test_the_parts_make_an_order_of_a_step(clip):
    problem = build_problem(training_step(5, clip=clip))
    assert is_topological(problem, parted(problem).order())


def test_limits_no_task():
    assert parted(empty_problem()).parts == ()
