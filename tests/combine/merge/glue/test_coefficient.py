"""The search over a grid of coefficients."""

import numpy as np
import pytest

from combine.merge.glue.pools import Bowl
from treadle.combine.merge.glue.methods.coefficient import Coefficient
from treadle.combine.merge.glue.methods.uniform import Uniform


def test_it_finds_the_best_of_the_grid_for_two_models():
    found = Coefficient().search(Bowl([[0.7, 0.3]]))
    assert np.allclose(found, [[0.7, 0.3]])


def test_effective_weights_are_products_of_the_steps():
    """c -> a c + (1 - a) m: the first has the product of all a, as Model-GLUE records them."""
    pool = Bowl([[0.5, 0.3, 0.2]])
    found = Coefficient().search(pool)
    assert found.sum() == pytest.approx(1)
    assert pool.score(found) < 0.01


def test_the_bad_one_is_dropped():
    found = Coefficient().search(Bowl([[0.6, 0.4, 0.0]]))
    assert found[0, 2] == 0


def test_a_grid_of_one_halves():
    pool = Bowl([[0.7, 0.3]])
    assert np.allclose(Coefficient(grid=1).search(pool), [[0.5, 0.5]])


def test_it_beats_the_mean_of_all():
    pool = Bowl([[0.8, 0.2, 0.0, 0.0]])
    assert pool.score(Coefficient().search(pool)) < pool.score(Uniform().search(pool))
    singles = pool.singles.min()
    assert pool.score(Coefficient().search(pool)) <= singles
