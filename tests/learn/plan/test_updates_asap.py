import pytest

from learn.plan.cases import order_of, random_peaks
from learn.plan.graphs import training_step
from treadle.learn.plan.methods.program import Program
from treadle.learn.plan.methods.updates_asap import UpdatesAsap
from treadle.learn.plan.problem import build_problem
from treadle.learn.plan.replay import peak_of


@pytest.mark.parametrize("clip", [False, True])
def test_reference_each_update_directly_follows_the_last_that_it_needs(clip):
    problem = build_problem(training_step(5, clip=clip))
    order = order_of(UpdatesAsap(), problem)
    rest = [t for t in order if problem.tasks[t].phase != "update"]
    assert rest == sorted(rest)
    expected = list(rest)
    for update in range(len(problem.tasks)):
        if problem.tasks[update].phase == "update":
            place = max(expected.index(before) for before in problem.predecessors[update]) + 1
            while place < len(expected) and problem.tasks[expected[place]].phase == "update":
                place += 1
            expected.insert(place, update)
    assert order == expected


def test_limits_a_step_without_updates_stays():
    problem = build_problem(training_step(1))
    assert order_of(UpdatesAsap(), problem)[-1] == len(problem.tasks) - 1


def test_meaning_gradients_die_early():
    problem = build_problem(training_step(8, width=16, batch=1))
    early = peak_of(problem, order_of(UpdatesAsap(), problem))
    assert early < 0.5 * peak_of(problem, order_of(Program(), problem))
    assert early < min(random_peaks(problem))
