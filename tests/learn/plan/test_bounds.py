"""Bounds and cuts against all orders."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from learn.plan.cases import drawn_problem, empty_problem
from learn.plan.graphs import Builder, graphs
from learn.plan.naive import all_orders, least_peak, naive_profile
from treadle.learn.plan.bounds import lower_bound, reach_of
from treadle.learn.plan.cuts import least_cut
from treadle.learn.plan.improve import Improver
from treadle.learn.plan.problem import build_problem
from treadle.learn.plan.replay import replay


@settings(max_examples=100, deadline=None)
@given(graph=graphs(7), donate=st.booleans())
def test_a_cut_is_the_least_of_all_orders_and_the_bound_below_it(graph, donate):
    problem = build_problem(graph, donate=donate)
    reach = reach_of(problem)
    least = {}
    for order in all_orders(problem):
        for task, num_bytes in zip(order, naive_profile(problem, order), strict=True):
            least[task] = min(least.get(task, 1 << 60), num_bytes)
    bound = lower_bound(problem, reach)
    for task, num_bytes in least.items():
        cut = least_cut(problem, reach, task)
        assert bound.by_task[task] <= cut.num_bytes <= num_bytes
        if not problem.tasks[task].donations:
            assert cut.num_bytes == num_bytes
    assert bound.num_bytes <= least_peak(problem)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), task=st.integers(0, 8))
def test_an_order_that_begins_with_the_cut_attains_it(seed, task):
    problem = drawn_problem(seed, 9, donate=False)
    cut = least_cut(problem, reach_of(problem), task)
    inside = sorted(cut.before)
    order = [*inside, task, *(t for t in range(9) if t not in cut.before and t != task)]
    assert all(b in cut.before for t in inside for b in problem.predecessors[t])
    assert replay(problem, order).profile[len(inside)] == cut.num_bytes


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), first=st.integers(0, 5), second=st.integers(0, 5))
def test_a_cut_after_another_task_is_the_least_of_the_orders_with_that_first(seed, first, second):
    problem = drawn_problem(seed, 6, donate=False)
    reach = reach_of(problem)
    if first == second or reach.is_before(second, first):
        return
    cut = least_cut(problem, reach, second, after=frozenset([first]))
    least = min(
        naive_profile(problem, order)[order.index(second)]
        for order in all_orders(problem)
        if order.index(first) < order.index(second)
    )
    assert cut.num_bytes == least


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), first=st.integers(0, 5), second=st.integers(0, 5))
def test_a_cut_ahead_of_another_task_is_the_least_of_the_orders_with_that_later(
    seed, first, second
):
    problem = drawn_problem(seed, 6, donate=False)
    reach = reach_of(problem)
    if first == second or reach.is_before(second, first):
        return
    cut = least_cut(problem, reach, first, ahead_of=frozenset([second]))
    least = min(
        naive_profile(problem, order)[order.index(first)]
        for order in all_orders(problem)
        if order.index(first) < order.index(second)
    )
    assert cut.num_bytes == least


@settings(max_examples=60, deadline=None)
@given(graph=graphs(7), donate=st.booleans(), seed=st.integers(0, 99))
def test_the_first_and_the_last_of_any_group_bound_every_order(graph, donate, seed):
    problem = build_problem(graph, donate=donate)
    improver = Improver(problem, reach_of(problem), 0, node_limit=4, max_steps=10)
    rng = np.random.default_rng(seed)
    group = [task for task in range(len(problem.tasks)) if rng.random() < 0.6]
    if group:
        improver.ends_of(group)
    assert improver.bound <= least_peak(problem)


def test_reach_knows_who_comes_before_whom():
    built = Builder("fork")
    built.run("a", makes=[("a", 64)])
    built.run("b", ["a"], [("b", 64)])
    built.run("c", ["a"], [("c", 64)])
    reach = reach_of(build_problem(built.graph()))
    before = [[reach.is_before(i, j) for j in range(3)] for i in range(3)]
    assert before == [[True, True, True], [False, True, False], [False, False, True]]


def test_a_bound_that_only_a_cut_sees():
    """Either x or its helper is there while the large operator runs; neither must be."""
    built = Builder("either")
    built.run("x", makes=[("x", 6400)])
    built.run("helper", ["x"], [("h", 6400)])
    built.run("large", makes=[("l", 64000)], after=["x"])
    built.run("end", ["h", "l"], [("e", 64)], outputs=["e"])
    problem = build_problem(built.graph())
    reach = reach_of(problem)
    assert lower_bound(problem, reach).num_bytes == 70464
    assert lower_bound(problem, reach).by_task[2] == 64000
    assert least_cut(problem, reach, 2).num_bytes == 70400


def test_limits_nothing_and_values_larger_than_32_bits():
    assert lower_bound(empty_problem()).num_bytes == 0
    built = Builder("huge")
    built.run("a", makes=[("a", 1 << 44)])
    built.run("h", ["a"], [("h", 1 << 43)])
    built.run("b", makes=[("b", 1 << 45)], after=["a"])
    built.run("c", ["b", "h"], [("c", 64)])
    problem = build_problem(built.graph())
    cut = least_cut(problem, reach_of(problem), 2)
    exact = (1 << 45) + (1 << 43)
    assert exact * (1 - 1e-6) < cut.num_bytes <= exact, "counted in units that fit 32 bits"
    assert cut.before == {0, 1}
