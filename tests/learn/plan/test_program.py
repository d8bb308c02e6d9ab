from learn.plan.cases import drawn_problem, fan_problem, order_of, random_peaks
from learn.plan.graphs import training_step
from treadle.learn.plan.methods.program import Program
from treadle.learn.plan.problem import build_problem
from treadle.learn.plan.replay import peak_of


def test_reference_the_tasks_as_they_are_listed():
    assert order_of(Program(), drawn_problem(0, 12)) == list(range(12))


def test_meaning_it_is_the_control():
    """No random order needs less where activations rule; any does where gradients do."""
    activations = build_problem(training_step(8, batch=32))
    least = peak_of(activations, order_of(Program(), activations))
    assert least <= min(random_peaks(activations))
    gradients = build_problem(training_step(8, width=16, batch=1))
    assert peak_of(gradients, order_of(Program(), gradients)) > max(random_peaks(gradients))
    fan = fan_problem()
    assert peak_of(fan, order_of(Program(), fan)) >= max(random_peaks(fan))
