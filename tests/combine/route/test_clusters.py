"""Clusters against loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from combine.route.made import data, kinds_of, texts_of
from treadle.combine.route.methods.clusters import Avengers
from treadle.core.errors import SettingsError


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 20))
def test_it_is_the_softmax_of_the_nearest_clusters(num_clusters, top_k, seed):
    made = data(30, seed=seed)
    method = Avengers(num_clusters=num_clusters, top_k=top_k, beta=3.0)
    (learned,) = method.learn(made, seed=seed)
    queries = data(5, seed=seed + 50).vectors
    found = learned.scorer.scores([""] * 5, queries)
    centres, values = learned.scorer.centres, learned.scorer.values
    for row, query in zip(found, queries, strict=True):
        away = [float(np.linalg.norm(query - one)) for one in centres]
        near = sorted(range(len(away)), key=lambda n: away[n])[:top_k]
        weights = np.exp([-3.0 * away[n] for n in near])
        wanted = sum(w * values[n] for w, n in zip(weights / weights.sum(), near, strict=True))
        assert row == pytest.approx(wanted, abs=2e-3)


def test_values_are_means_of_members():
    made = data(40, share_known=0.8)
    (learned,) = Avengers(num_clusters=2).learn(made, seed=0)
    assert len(learned.scorer.centres) == 2
    for centre, values in zip(learned.scorer.centres, learned.scorer.values, strict=True):
        kind = 0 if centre[0] > 0 else 1
        wanted = np.nanmean(made.worth[kinds_of(made) == kind], axis=0)
        assert values == pytest.approx(wanted, abs=1e-5)


def test_one_cluster_is_the_best_single_model_and_all_are_every_question():
    made = data(12)
    (one,) = Avengers(num_clusters=1).learn(made, seed=0)
    assert one.scorer.values[0] == pytest.approx(made.worth.mean(axis=0), abs=1e-5)
    (every,) = Avengers(num_clusters=500).learn(made, seed=0)
    assert every.scorer.scores(texts_of(made), made.vectors) == pytest.approx(made.worth, abs=1e-5)


def test_cost_alone_chooses_the_cheapest():
    made = data(20)._replace(cost=np.tile([3.0, 2.0, 1.0], (20, 1)))
    (learned,) = Avengers(alpha=0.0).learn(made, seed=0)
    assert (learned.scorer.scores(texts_of(made), made.vectors).argmax(axis=1) == 2).all()
    with pytest.raises(SettingsError, match=r"weighs costs.*leave alpha"):
        list(Avengers(alpha=0.5).learn(data(), seed=0))
