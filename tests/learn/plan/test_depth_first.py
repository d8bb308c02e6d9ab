import pytest

from learn.plan.cases import drawn_problem, fan_problem, order_of, random_peaks
from treadle.learn.plan.methods.depth_first import DepthFirst
from treadle.learn.plan.replay import peak_of


def naive(problem):
    def touched(task):
        values = {*problem.tasks[task].inputs, *problem.tasks[task].outputs}
        return sum(problem.sizes[v] for v in values), task

    order = []

    def visit(task):
        if task not in order:
            for before in sorted(problem.predecessors[task], key=touched):
                visit(before)
            order.append(task)

    for task in sorted(range(len(problem.tasks)), key=touched):
        visit(task)
    return order


@pytest.mark.parametrize("seed", range(12))
def test_reference(seed):
    problem = drawn_problem(seed, 20)
    assert order_of(DepthFirst(), problem) == naive(problem)


def test_limits_a_chain_longer_than_the_recursion_limit():
    from learn.plan.graphs import Builder
    from treadle.learn.plan.problem import build_problem

    built = Builder("chain")
    built.run("t0", makes=[("v0", 64)])
    for number in range(1, 3000):
        built.run(f"t{number}", [f"v{number - 1}"], [(f"v{number}", 64)])
    assert order_of(DepthFirst(), build_problem(built.graph())) == list(range(3000))


def test_meaning_it_reduces_one_branch_after_the_other():
    fan = fan_problem()
    assert peak_of(fan, order_of(DepthFirst(), fan)) < min(random_peaks(fan))
