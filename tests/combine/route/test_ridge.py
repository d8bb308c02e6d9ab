"""Ridge regression against normal equations, and leaving out against leaving out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from combine.route.made import data, kinds_of, texts_of
from treadle.combine.route.maths.regression import STRENGTHS
from treadle.combine.route.methods.ridge import Ridge


def naive(inputs, wanted, strength):
    """Solve for the weights and a bias that is free, as one system."""
    rows = np.c_[inputs.astype(np.float64), np.ones(len(inputs))]
    penalty = strength * np.eye(rows.shape[1])
    penalty[-1, -1] = 0
    return np.linalg.solve(rows.T @ rows + penalty, rows.T @ wanted)


@given(st.integers(8, 30), st.floats(0.1, 50), st.integers(0, 30), st.sampled_from([1.0, 0.7]))
def test_it_solves_the_normal_equations_of_what_is_known(count, strength, seed, share_known):
    made = data(count, seed=seed, share_known=share_known)
    made.worth[:2] = [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]
    (learned,) = Ridge(strength=strength).learn(made, seed=0)
    for model in range(3):
        known = ~np.isnan(made.worth[:, model])
        wanted = naive(made.vectors[known], made.worth[known, model], strength)
        assert learned.scorer.weight[model] == pytest.approx(wanted[:-1], abs=1e-4)
        assert learned.scorer.bias[model] == pytest.approx(wanted[-1], abs=1e-4)


def test_the_strength_is_the_one_that_errs_least_on_questions_left_out():
    made = data(15)

    def left_out(strength):
        total = 0.0
        for row in range(15):
            others = [n for n in range(15) if n != row]
            solved = naive(made.vectors[others], made.worth[others], strength)
            total += ((np.r_[made.vectors[row], 1] @ solved - made.worth[row]) ** 2).sum()
        return total

    best = min(STRENGTHS, key=left_out)
    (learned,) = Ridge().learn(made, seed=0)
    assert f"{best:.3g}" in learned.note


def test_endless_strength_is_the_mean_and_none_tells_the_kinds_apart():
    made = data(40)
    (flat,) = Ridge(strength=1e12).learn(made, seed=0)
    scores = flat.scorer.scores(texts_of(made), made.vectors)
    assert scores == pytest.approx(np.tile(made.worth.mean(axis=0), (40, 1)), abs=1e-4)
    (learned,) = Ridge().learn(made, seed=0)
    fresh = data(30, seed=5)
    chosen = learned.scorer.scores(texts_of(fresh), fresh.vectors).argmax(axis=1)
    assert (chosen == kinds_of(fresh)).mean() > 0.95
