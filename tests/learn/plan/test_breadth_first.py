import pytest

from learn.plan.cases import drawn_problem, fan_problem, order_of, random_peaks
from treadle.learn.plan.methods.breadth_first import BreadthFirst
from treadle.learn.plan.replay import peak_of


def naive(problem):
    """Kahn's algorithm: a queue of what has no predecessor left."""
    queue = [t for t, before in enumerate(problem.predecessors) if not before]
    for task in queue:
        done = set(queue[: queue.index(task) + 1])
        queue += [
            t
            for t, before in enumerate(problem.predecessors)
            if t not in queue and before and set(before) <= done
        ]
    return queue


@pytest.mark.parametrize("seed", range(12))
def test_reference(seed):
    problem = drawn_problem(seed, 20)
    assert order_of(BreadthFirst(), problem) == naive(problem)


def test_meaning_it_keeps_all_branches_alive_as_the_docs_say():
    """It loses on the fan: no random order needs more."""
    fan = fan_problem()
    assert peak_of(fan, order_of(BreadthFirst(), fan)) == 6 * 64 * 100 + 64
    assert peak_of(fan, order_of(BreadthFirst(), fan)) >= max(random_peaks(fan))
