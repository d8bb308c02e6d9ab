import pytest

from learn.plan.cases import drawn_problem, fan_problem, order_of, random_peaks
from learn.plan.graphs import training_step
from learn.plan.naive import naive_profile
from treadle.learn.plan.methods.least_peak_first import LeastPeakFirst
from treadle.learn.plan.problem import build_problem
from treadle.learn.plan.replay import peak_of


def naive_cost(problem, order, task):
    """Return what `task` needs if it runs next, and by how much memory then grows."""
    done = [*order, task]
    rest = [t for t in range(len(problem.tasks)) if t not in done]
    needed = naive_profile(problem, [*done, *rest])[len(order)]

    def live(tasks):
        born = [v for v, p in enumerate(problem.producers) if p in tasks or p < 0]
        return sum(
            problem.sizes[v]
            for v in born
            if problem.is_output[v] or any(c not in tasks for c in problem.consumers[v])
        )

    return needed, live(done) - live(order)


def naive(problem):
    order, peak = [], problem.start_bytes()
    while len(order) < len(problem.tasks):
        ready = [
            t
            for t in range(len(problem.tasks))
            if t not in order and all(b in order for b in problem.predecessors[t])
        ]
        costs = {t: naive_cost(problem, order, t) for t in ready}
        fitting = [t for t in ready if costs[t][0] <= peak]
        if fitting:
            chosen = min(fitting, key=lambda t: (costs[t][1], t))
        else:
            chosen = min(ready, key=lambda t: (*costs[t], t))
        peak = max(peak, costs[chosen][0])
        order.append(chosen)
    return order


@pytest.mark.parametrize("donate", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_reference(seed, donate):
    problem = drawn_problem(seed, 16, donate=donate)
    assert order_of(LeastPeakFirst(), problem) == naive(problem)


def test_meaning_it_reduces_one_branch_after_the_other():
    fan = fan_problem()
    assert peak_of(fan, order_of(LeastPeakFirst(), fan)) == 64 * 100 + 6 * 64
    assert peak_of(fan, order_of(LeastPeakFirst(), fan)) < min(random_peaks(fan))
    step = build_problem(training_step(8, width=16, batch=1))
    assert peak_of(step, order_of(LeastPeakFirst(), step)) < min(random_peaks(step))
