"""The search whose order follows the merge."""

import numpy as np

from combine.merge.glue.pools import Bowl
from treadle.combine.merge.glue.methods.similarity import Similarity


class Chain(Bowl):
    """Of four models in a row, each is most like its neighbours."""

    def __init__(self, target):
        super().__init__(target)
        places = np.arange(self.num_models)
        self.alike = 1 - np.abs(places[:, None] - places) / 10


def first_asked(pool: Chain) -> list[int]:
    """The order in which models were first given weight, behind the singles."""
    seen = []
    for weights, _ in pool.asked:
        held = np.flatnonzero(weights[0])
        if len(held) > 1:
            seen += [int(n) for n in held if n not in seen]
    return seen


def test_the_nearest_comes_next():
    pool = Chain([[1.0, 0.0, 0.0, 0.0]])
    Similarity(next="alike").search(pool)
    assert first_asked(pool) == [0, 1, 2, 3]


def test_the_farthest_comes_next():
    pool = Chain([[1.0, 0.0, 0.0, 0.0]])
    Similarity(next="unlike").search(pool)
    assert first_asked(pool)[:2] == [0, 3]


def test_the_order_is_made_anew_from_the_merge():
    """Once 3 has joined 0, what is most unlike the merge is another one than from 0 alone."""
    pool = Chain([[0.5, 0.0, 0.0, 0.5]])
    found = Similarity(next="unlike").search(pool)
    assert np.allclose(found, [[0.5, 0, 0, 0.5]])
    assert first_asked(pool) == [0, 3, 1, 2]


def test_without_a_grid_it_is_a_running_mean():
    found = Similarity(grid=0).search(Chain([[0.5, 0.5, 0.0, 0.0]]))
    assert np.allclose(found, [[0.5, 0.5, 0, 0]])
