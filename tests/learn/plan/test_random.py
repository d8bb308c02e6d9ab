from collections import Counter

from learn.plan.cases import fan_problem, order_of
from learn.plan.graphs import Builder
from treadle.learn.plan.methods.random import Random
from treadle.learn.plan.problem import build_problem


def test_reference_each_ready_task_is_as_likely():
    built = Builder("three")
    for name in "abc":
        built.run(name, makes=[(name, 64)])
    problem = build_problem(built.graph())
    found = Counter(tuple(order_of(Random(), problem, seed)) for seed in range(600))
    assert len(found) == 6
    assert min(found.values()) > 60


def test_meaning_memory_does_not_matter():
    wide, flat = fan_problem(big=64 * 100), fan_problem(big=64)
    assert order_of(Random(), wide, 3) == order_of(Random(), flat, 3)
