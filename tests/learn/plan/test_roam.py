import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learn.plan.cases import drawn_problem, fan_problem, generator, order_of, random_peaks
from learn.plan.graphs import graphs, training_step
from learn.plan.naive import least_peak
from treadle.learn.plan.listing import CANDIDATES
from treadle.learn.plan.methods.roam import Roam
from treadle.learn.plan.problem import build_problem
from treadle.learn.plan.replay import peak_of


@settings(max_examples=80, deadline=None)
@given(graph=graphs(7), donate=st.booleans())
def test_reference_brute_force(graph, donate):
    problem = build_problem(graph, donate=donate)
    found = Roam().order(problem, generator())
    assert peak_of(problem, found.order) == least_peak(problem)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num=st.integers(10, 60),
    node_limit=st.integers(2, 12),
    max_steps=st.integers(1, 200),
)
def test_it_is_never_worse_than_the_best_candidate(seed, num, node_limit, max_steps):
    problem = drawn_problem(seed, num)
    method = Roam(node_limit=node_limit, max_steps=max_steps, total_steps=20 * max_steps)
    found = method.order(problem, generator())
    best = min(peak_of(problem, rule(problem)) for rule in CANDIDATES.values())
    assert found.bound_bytes <= peak_of(problem, found.order) <= best


def test_limits_the_smallest_pieces_and_one_state():
    problem = drawn_problem(4, 30)
    found = Roam(node_limit=2, max_steps=1, num_starts=1).order(problem, generator())
    assert "given up after 1 or so many in all" in found.notes[1]


@pytest.mark.parametrize("seed", range(3))
def test_meaning_it_beats_every_simple_order_and_random(seed):
    problem = drawn_problem(seed, 40)
    found = peak_of(problem, order_of(Roam(max_steps=1000), problem))
    others = [peak_of(problem, rule(problem)) for rule in CANDIDATES.values()]
    assert found < min(others)
    assert found < min(random_peaks(problem))


def test_meaning_a_step_is_proven_best():
    problem = build_problem(training_step(12, width=16, batch=1, scratch=64))
    found = Roam().order(problem, generator())
    assert found.bound_bytes == peak_of(problem, found.order)
    assert found.bound_bytes < 0.3 * peak_of(problem, range(len(problem.tasks)))
    fan = fan_problem()
    assert Roam().order(fan, generator()).bound_bytes == peak_of(fan, order_of(Roam(), fan))


def test_equal_pieces_are_searched_once():
    """The second of two equal searches is looked up, whatever is in memory beside it."""
    from treadle.learn.plan.bounds import lower_bound, reach_of
    from treadle.learn.plan.improve import Improver
    from treadle.learn.plan.replay import replay

    problem = build_problem(training_step(6))
    improver = Improver(
        problem, reach_of(problem), lower_bound(problem).num_bytes, node_limit=8, max_steps=99
    )
    order = list(range(len(problem.tasks)))
    found = replay(problem, order)
    for first in (2, 4, 6):
        improver.solve(order, found, first, first + 1)
    assert (improver.num_solved, improver.num_reused) == (1, 2)
