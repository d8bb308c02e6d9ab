import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from combine.merge.sites import COUNTS, SEEDS, close, elected, normal
from treadle.combine.merge.maths.task_vectors import elected_mean, elected_sum, weighted_sum


def drawn(count: int, seed: int) -> np.ndarray:
    """Vectors with zeros and with ties of opposite sign among them."""
    found = normal(count, 12, seed=seed)
    found[:, ::3] = np.round(found[:, ::3])
    found[:, 1] = 0.0
    return found


@given(COUNTS, SEEDS, st.booleans(), st.booleans())
def test_elected_sum(count, seed, normalize, equal) -> None:
    vectors = drawn(count, seed)
    weights = np.ones(count, np.float32) if equal else np.arange(count, dtype=np.float32) - 1
    expected = elected(vectors.tolist(), weights.tolist(), normalize)
    assert close(elected_sum(vectors.copy(), weights, normalize=normalize), expected)


@given(COUNTS, SEEDS)
def test_elected_mean_of_equal_weights_is_a_normalised_sum(count, seed) -> None:
    vectors, weights = drawn(count, seed), np.full(count, 0.5, np.float32)
    found = elected_mean(vectors.copy(), weights, at_least=1e-6)
    assert np.allclose(found, elected_sum(vectors, np.ones_like(weights), normalize=True))


def test_weighted_sum() -> None:
    vectors = drawn(3, 0)
    weights = np.array([0.5, 1.0, -2.0], np.float32)
    assert np.allclose(weighted_sum(vectors.copy(), weights), weights @ vectors, atol=1e-6)
