"""The search that grows a running mean."""

import numpy as np

from combine.merge.glue.pools import Bowl
from treadle.combine.merge.glue.methods.average import Average


def reference(pool: Bowl) -> np.ndarray:
    """The heuristic in loops: a soup of counts."""
    order = sorted(range(pool.num_models), key=lambda n: (pool.singles[n], n))
    inside = [order[0]]
    best = pool.singles[order[0]]
    for candidate in order[1:]:
        weights = np.zeros(pool.num_models)
        for member in [*inside, candidate]:
            weights[member] += 1 / (len(inside) + 1)
        score = float(np.square(weights - pool.target[0]).sum())
        if score <= best:
            inside.append(candidate)
            best = score
    found = np.zeros(pool.num_models)
    found[inside] = 1 / len(inside)
    return found


def test_it_is_the_greedy_soup():
    for seed in range(5):
        target = np.random.default_rng(seed).dirichlet(np.ones(4))
        pool = Bowl([target.tolist()])
        assert np.allclose(Average().search(pool), reference(Bowl([target.tolist()])))


def test_it_drops_what_makes_the_merge_worse():
    found = Average().search(Bowl([[0.5, 0.5, 0.0]]))
    assert np.allclose(found, [[0.5, 0.5, 0.0]])


def test_a_single_model_is_itself():
    assert Average().search(Bowl([[1.0]])).tolist() == [[1.0]]


def test_models_that_score_alike_all_stay():
    class Flat(Bowl):
        def score(self, weights, share=1.0):
            return 1.0

    assert np.allclose(Average().search(Flat([[1.0, 0.0, 0.0]])), 1 / 3)
