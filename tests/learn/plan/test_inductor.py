import pytest

from learn.plan.cases import drawn_problem, fan_problem, generator, order_of, random_peaks
from treadle.learn.plan.listing import breadth_first, depth_first, least_peak_first
from treadle.learn.plan.methods.inductor import Inductor
from treadle.learn.plan.replay import peak_of


@pytest.mark.parametrize("seed", range(10))
def test_reference_the_least_of_four(seed):
    problem = drawn_problem(seed, 20)
    rules = (lambda p: list(range(20)), least_peak_first, breadth_first, depth_first)
    peaks = [peak_of(problem, rule(problem)) for rule in rules]
    assert peak_of(problem, order_of(Inductor(), problem)) == min(peaks)


def test_limits_ties_go_to_the_traced_order():
    from learn.plan.cases import single_problem

    found = Inductor().order(single_problem(), generator())
    assert found.notes == ("Inductor's best rule here is program.",)


def test_meaning_it_beats_random():
    fan = fan_problem()
    assert peak_of(fan, order_of(Inductor(), fan)) < min(random_peaks(fan))
