"""Matrix factorisation: the rank that it has, and that it learns."""

import numpy as np

from combine.route.made import data, kinds_of, texts_of
from treadle.combine.route.methods.matrix import MatrixFactorisation


def test_the_router_has_the_rank_of_the_factors():
    *_, learned = MatrixFactorisation(rank=1, steps=5, every=5).learn(data(20), seed=0)
    assert np.linalg.matrix_rank(learned.scorer.weight, tol=1e-5) == 1


def test_it_learns_who_is_good_at_what():
    made, fresh = data(60), data(30, seed=4)
    *_, learned = MatrixFactorisation(rank=4, steps=200, rate=1e-2).learn(made, seed=0)
    chosen = learned.scorer.scores(texts_of(fresh), fresh.vectors).argmax(axis=1)
    assert (chosen == kinds_of(fresh)).mean() > 0.95


def test_its_first_loss_is_the_cross_entropy_of_its_logits():
    made = data(8, share_known=0.7)
    method = MatrixFactorisation(steps=1, rate=1e-12, batch=8, weight_decay=0.0, noise=0.0)
    (before,) = method.learn(made, seed=0)
    logits = before.scorer.scores(texts_of(made), made.vectors).astype(np.float64).ravel()
    terms = [
        np.log1p(np.exp(z)) - y * z
        for z, y in zip(logits, made.worth.ravel(), strict=True)
        if not np.isnan(y)
    ]
    assert abs(before.loss - np.mean(terms)) < 1e-3


def test_noise_changes_what_is_learned():
    first, second = (
        list(MatrixFactorisation(steps=3, noise=noise).learn(data(20), seed=0))[-1].scorer.weight
        for noise in (0.0, 0.5)
    )
    assert not np.array_equal(first, second)
