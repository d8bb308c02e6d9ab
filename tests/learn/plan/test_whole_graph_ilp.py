import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learn.plan.cases import drawn_problem, fan_problem, generator, order_of, random_peaks
from learn.plan.naive import least_peak
from treadle.core.errors import CapacityError
from treadle.learn.plan.methods.whole_graph_ilp import WholeGraphIlp
from treadle.learn.plan.replay import peak_of


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), num=st.integers(2, 7))
def test_reference_brute_force(seed, num):
    problem = drawn_problem(seed, num, donate=False)
    assert peak_of(problem, order_of(WholeGraphIlp(), problem)) == least_peak(problem)


def test_limits_a_cap_is_said_and_a_large_program_refused():
    problem = drawn_problem(1, 30)
    found = WholeGraphIlp(time_limit_seconds=0.01).order(problem, generator())
    assert found.order == tuple(range(30)), "without an order in time, the traced one"
    assert "HiGHS was cut after 0.01 s (without an order)" in found.notes[0]
    with pytest.raises(CapacityError, match=r"has \d+ variables, max_variables is 10; choose"):
        WholeGraphIlp(max_variables=10).order(problem, generator())


def test_meaning_it_beats_random():
    fan = fan_problem(3)
    assert peak_of(fan, order_of(WholeGraphIlp(), fan)) <= min(random_peaks(fan))
