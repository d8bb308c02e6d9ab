"""The control: whoever is drawn."""

import numpy as np

from combine.route.made import data
from treadle.combine.route.methods.random import RandomRoute
from treadle.core.run import is_control

TEXTS = [f"question {number}" for number in range(3000)]


def test_its_expectation_is_the_mean_of_all_scores():
    (learned,) = RandomRoute().learn(data(), seed=0)
    drawn = learned.scorer.scores(TEXTS, np.zeros((len(TEXTS), 0), np.float32)).argmax(axis=1)
    shares = np.bincount(drawn, minlength=3) / len(TEXTS)
    assert np.abs(shares - 1 / 3).max() < 0.03  # three deviations of 3000 draws


def test_a_text_goes_the_same_way_again_and_seeds_differ():
    none = np.zeros((len(TEXTS), 0), np.float32)
    (one,), (same,), (other,) = (RandomRoute().learn(data(), seed) for seed in (0, 0, 1))
    assert np.array_equal(one.scorer.scores(TEXTS, none), same.scorer.scores(TEXTS[:], none))
    alone = one.scorer.scores(TEXTS[7:8], none[:1])
    assert np.array_equal(alone, one.scorer.scores(TEXTS, none)[7:8])
    assert not np.array_equal(one.scorer.scores(TEXTS, none), other.scorer.scores(TEXTS, none))
    assert is_control(RandomRoute())
