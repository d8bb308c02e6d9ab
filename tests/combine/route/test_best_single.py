"""The control: one model for all."""

import numpy as np

from combine.route.made import data
from treadle.combine.route.methods.best_single import BestSingle
from treadle.core.run import is_control


def test_the_model_of_the_largest_mean_answers_everything():
    made = data(share_known=0.7)
    (learned,) = BestSingle().learn(made, seed=0)
    scores = learned.scorer.scores(["a", "b"], np.zeros((2, 0), np.float32))
    means = [np.mean([row[n] for row in made.worth if not np.isnan(row[n])]) for n in range(3)]
    assert np.allclose(scores, [means, means])
    assert is_control(BestSingle())


def test_who_was_never_asked_is_not_chosen():
    made = data()
    made.worth[:, 0] = np.nan
    (learned,) = BestSingle().learn(made, seed=0)
    assert learned.scorer.scores(["a"], np.zeros((1, 0), np.float32))[0, 0] == 0
