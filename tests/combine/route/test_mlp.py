"""The small network: what it computes, and that it learns."""

import numpy as np
import pytest

from combine.route.made import data, kinds_of, texts_of
from treadle.combine.route.maths.descent import as_shares
from treadle.combine.route.methods.mlp import Mlp


def test_it_is_a_sigmoid_over_relus():
    made = data(10)
    *_, learned = Mlp(steps=3, every=1, hidden=4).learn(made, seed=0)
    one = learned.scorer
    found = one.scores(texts_of(made), made.vectors)
    for row, vector in zip(found, made.vectors, strict=True):
        hidden = [
            max(0.0, float(w @ vector + b))
            for w, b in zip(one.inner_weight, one.inner_bias, strict=True)
        ]
        logits = [float(np.dot(w, hidden) + b) for w, b in zip(one.weight, one.bias, strict=True)]
        assert row == pytest.approx([1 / (1 + np.exp(-z)) for z in logits], abs=1e-5)


def test_its_loss_is_the_cross_entropy_of_what_is_known():
    made = data(8, share_known=0.6)
    (before,) = Mlp(steps=1, rate=1e-12, batch=8, weight_decay=0.0).learn(made, seed=0)
    found = before.scorer.scores(texts_of(made), made.vectors).astype(np.float64)
    terms = [
        -(y * np.log(p) + (1 - y) * np.log(1 - p))
        for p, y in zip(found.ravel(), made.worth.ravel(), strict=True)
        if not np.isnan(y)
    ]
    assert before.loss == pytest.approx(np.mean(terms), rel=1e-4)


def test_it_learns_who_is_good_at_what():
    made, fresh = data(60), data(30, seed=4)
    *_, learned = Mlp(steps=150, every=50, rate=1e-2).learn(made, seed=0)
    chosen = learned.scorer.scores(texts_of(fresh), fresh.vectors).argmax(axis=1)
    assert (chosen == kinds_of(fresh)).mean() > 0.95
    assert learned.step == 150


def test_worth_below_zero_is_scaled_and_scores_are_not():
    worth = np.asarray([[0.2, np.nan], [1.0, 0.5]])
    assert as_shares(worth) is worth
    scaled = as_shares(worth - 1)
    assert scaled[1, 0] == 1
    assert scaled[0, 0] == 0
    assert np.isnan(scaled[0, 1])
