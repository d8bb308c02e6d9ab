"""The exact search against brute force."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learn.plan.cases import drawn_problem
from learn.plan.graphs import graphs, training_step
from learn.plan.naive import all_orders, is_topological, least_peak, naive_peak
from treadle.learn.plan.downsets import best_order, piece_of
from treadle.learn.plan.problem import build_problem
from treadle.learn.plan.replay import replay


def searched(problem, **limits):
    order = list(range(len(problem.tasks)))
    start = problem.start_bytes()
    solution = best_order(piece_of(problem, order, 0, len(order) - 1), 1 << 60, **limits)
    return solution, start


@settings(max_examples=120, deadline=None)
@given(graph=graphs(7), donate=st.booleans())
def test_the_search_equals_brute_force(graph, donate):
    problem = build_problem(graph, donate=donate)
    solution, start = searched(problem)
    assert is_topological(problem, solution.order)
    assert solution.peak + start == naive_peak(problem, solution.order) == least_peak(problem)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(graph=graphs(9), donate=st.booleans())
def test_the_search_equals_brute_force_on_nine_operators(graph, donate):
    problem = build_problem(graph, donate=donate)
    solution, start = searched(problem)
    assert solution.peak + start == least_peak(problem)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), first=st.integers(0, 4), length=st.integers(2, 5))
def test_a_piece_is_the_best_of_all_orders_with_the_rest_fixed(seed, first, length):
    problem = drawn_problem(seed, 10)
    order = list(range(10))
    last = min(9, first + length - 1)
    found = replay(problem, order)
    solution = best_order(piece_of(problem, order, first, last), 1 << 60)
    new = [*order[:first], *(first + p for p in solution.order), *order[last + 1 :]]
    peaks = [
        max(replay(problem, other).profile[first : last + 1])
        for other in all_orders(problem)
        if other[:first] == order[:first] and other[last + 1 :] == order[last + 1 :]
    ]
    assert max(replay(problem, new).profile[first : last + 1]) == min(peaks)
    assert solution.peak + found.live[first] == min(peaks)


def test_the_limit_is_not_reached():
    problem = drawn_problem(3, 8)
    best, start = searched(problem)
    piece = piece_of(problem, list(range(8)), 0, 7)
    assert best_order(piece, best.peak + 1).order is not None
    none = best_order(piece, best.peak)
    assert none.order is None
    assert not none.is_cut, "that none is below the limit is proven"
    assert start + best.peak == least_peak(problem)


def test_a_floor_stops_at_what_is_good_enough():
    problem = drawn_problem(3, 8)
    best, _ = searched(problem)
    solution, _ = searched(problem, floor=best.peak + 640)
    assert solution.peak == best.peak + 640
    assert naive_peak(problem, solution.order) <= solution.peak + problem.start_bytes()


def test_a_search_that_is_cut_says_so():
    solution, _ = searched(drawn_problem(1, 40), max_steps=3)
    assert solution.is_cut
    assert solution.order is None
    assert solution.num_steps > 3


def test_what_frees_memory_runs_at_once():
    """Without that rule the updates of eight layers alone would have 2⁸ downsets."""
    problem = build_problem(training_step(8))
    solution, _ = searched(problem)
    assert solution.num_states < 200
    assert is_topological(problem, solution.order)
