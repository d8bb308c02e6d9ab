"""The control: the best of many draws."""

import numpy as np

from combine.merge.glue.pools import Bowl
from treadle.combine.merge.glue.methods.random_weights import RandomWeights
from treadle.core.run import is_control


def test_it_returns_the_best_of_its_draws():
    pool = Bowl([[0.2, 0.5, 0.3]])
    found = RandomWeights(num_candidates=20).search(pool)
    scores = [float(np.square(weights - pool.target).sum()) for weights, _ in pool.asked]
    assert pool.score(found) == min(scores)
    assert len(pool.asked) == 3 + 20 + 1


def test_more_draws_are_never_worse():
    scores = [
        Bowl([[0.2, 0.5, 0.3]]).score(
            RandomWeights(num_candidates=n).search(Bowl([[0.2, 0.5, 0.3]]))
        )
        for n in (1, 10, 100)
    ]
    assert scores == sorted(scores, reverse=True)


def test_the_best_single_model_is_among_them():
    assert RandomWeights(num_candidates=1).search(Bowl([[0, 1.0, 0]])).tolist() == [[0, 1, 0]]
    assert is_control(RandomWeights())
