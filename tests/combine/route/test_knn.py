"""kNN against loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from combine.route.made import data, kinds_of, texts_of
from treadle.combine.route.methods.knn import NearestNeighbours


def naive(made, queries, k):
    found = np.zeros((len(queries), made.num_models))
    for row, query in zip(found, queries, strict=True):
        cosines = [float(np.dot(query.astype(np.float64), one)) for one in made.vectors]
        near = sorted(range(len(cosines)), key=lambda n: -cosines[n])[:k]
        for model in range(made.num_models):
            asked = [n for n in near if not np.isnan(made.worth[n, model])]
            weights = [max(cosines[n], 1e-12) for n in asked]
            if not asked:
                row[model] = np.nanmean(made.worth[:, model])
            else:
                total = sum(w * made.worth[n, model] for w, n in zip(weights, asked, strict=True))
                row[model] = total / sum(weights)
    return found


@given(st.integers(2, 25), st.integers(1, 30), st.integers(0, 50), st.sampled_from([1.0, 0.6]))
def test_it_is_the_weighted_mean_of_the_nearest(count, k, seed, share_known):
    made = data(count, seed=seed, share_known=share_known)
    made.worth[0] = 0.5  # every model was asked something
    queries = data(4, seed=seed + 100).vectors
    (learned,) = NearestNeighbours(k=k).learn(made, seed=0)
    found = learned.scorer.scores([""] * 4, queries)
    assert found == pytest.approx(naive(made, queries, k), abs=2e-5)


def test_all_neighbours_alike_are_near_the_mean_and_one_is_itself():
    made = data(20)
    (one,) = NearestNeighbours(k=1).learn(made, seed=0)
    assert one.scorer.scores(texts_of(made), made.vectors) == pytest.approx(made.worth, abs=1e-5)


def test_it_goes_where_similar_questions_went():
    made, fresh = data(60), data(40, seed=9)
    (learned,) = NearestNeighbours(k=10).learn(made, seed=0)
    chosen = learned.scorer.scores(texts_of(fresh), fresh.vectors).argmax(axis=1)
    assert (chosen == kinds_of(fresh)).mean() > 0.95
