"""k-means: every vector with its nearest centre, every centre the mean of its own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle.combine.route.maths.centroids import k_means, nearest_of


@given(st.integers(1, 30), st.integers(1, 8), st.integers(0, 50))
def test_it_ends_where_nothing_moves(count, clusters, seed):
    drawn = np.random.default_rng(seed)
    vectors = drawn.standard_normal((count, 3)).astype(np.float32)
    centres, labels = k_means(vectors, clusters, np.random.default_rng(seed))
    assert len(centres) == min(clusters, count)
    for vector, label in zip(vectors, labels, strict=True):
        away = [float(((vector - one) ** 2).sum()) for one in centres]
        assert away[label] <= min(away) + 1e-5
    for place, centre in enumerate(centres):
        if (labels == place).any():
            assert centre == pytest.approx(vectors[labels == place].mean(axis=0), abs=1e-5)


def test_there_are_no_more_clusters_than_vectors_that_differ():
    vectors = np.repeat(np.eye(2, dtype=np.float32), 5, axis=0)
    centres, labels = k_means(vectors, 4, np.random.default_rng(0))
    assert len(centres) == 2
    assert len(set(labels[:5])) == len(set(labels[5:])) == 1


def test_the_first_of_equals_is_nearest():
    centres = np.asarray([[1.0, 0], [1.0, 0], [0, 1.0]], np.float32)
    assert nearest_of(centres, centres).tolist() == [0, 0, 2]
