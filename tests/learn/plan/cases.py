"""What the tests of the methods share: problems, and a call of one method."""

import numpy as np

from learn.plan.graphs import Builder, drawn_graph
from treadle.learn.plan.fitting import arena_of
from treadle.learn.plan.problem import build_problem
from treadle.learn.plan.replay import MemoryBlock, blocks_of, peak_of


def generator(seed=0):
    return np.random.default_rng(seed)


def drawn_problem(seed, num_operators, *, donate=True):
    return build_problem(drawn_graph(generator(seed), num_operators), donate=donate)


def order_of(method, problem, seed=0):
    return list(method.order(problem, generator(seed)).order)


def arena(method, blocks, seed=0):
    return arena_of(blocks, method.place(blocks, generator(seed)).offsets)


def fan_problem(num_branches=6, big=64 * 100, small=64):
    """Branches that make a large value and reduce it to a small one, traced level by level.

    Branch after branch, one large value is there at a time; in the traced order, all are.
    """
    built = Builder("fan")
    for branch in range(num_branches):
        built.run(f"make{branch}", makes=[(f"big{branch}", big)])
    for branch in range(num_branches):
        built.run(f"reduce{branch}", [f"big{branch}"], [(f"small{branch}", small)])
    built.run("sum", [f"small{b}" for b in range(num_branches)], [("sum", small)], outputs=["sum"])
    return build_problem(built.graph())


def single_problem():
    built = Builder("single")
    built.run("only", makes=[("x", 100)], scratch=28)
    return build_problem(built.graph())


def empty_problem():
    return build_problem(Builder("empty").graph())


def random_peaks(problem, num=20):
    from treadle.learn.plan.methods.random import Random

    return [peak_of(problem, order_of(Random(), problem, seed)) for seed in range(num)]


def drawn_blocks(seed, num_operators=25):
    problem = drawn_problem(seed, num_operators)
    return blocks_of(problem, range(len(problem.tasks)))


def blocks(*spans):
    """Return blocks from (start, end, bytes)."""
    return [MemoryBlock((number,), *span) for number, span in enumerate(spans)]
