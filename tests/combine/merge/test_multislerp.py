import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from combine.merge.sites import COUNTS, RUNS, SEEDS, SHAPES, MemorySite, merged, normal, tuned
from treadle.combine.merge.methods.linear import Linear
from treadle.combine.merge.methods.multislerp import MultiSlerp
from treadle.core.errors import SettingsError


def tangent_mean(vectors: list[np.ndarray], weights: list[float]) -> np.ndarray:
    """By way of the tangent space, which the method leaves out."""
    norms = [np.linalg.norm(v) for v in vectors]
    units = [v / (n + 1e-8) for v, n in zip(vectors, norms, strict=True)]
    mean = sum(w * u for w, u in zip(weights, units, strict=True))
    mean = mean / np.linalg.norm(mean)
    tangent = sum(w * (u - (u @ mean) * mean) for w, u in zip(weights, units, strict=True))
    length = np.linalg.norm(tangent) + 1e-8
    point = np.cos(length) * mean + np.sin(length) / length * tangent
    return sum(w * n for w, n in zip(weights, norms, strict=True)) * point


@given(SHAPES, COUNTS, SEEDS, RUNS, st.booleans(), st.booleans())
def test_reference(shape, count, seed, run, has_base, normalize) -> None:
    models, base = tuned(shape, count, seed, distance=1.0)
    origin = base if has_base else np.zeros_like(base)
    weights = [1.0, 0.5, 2.25, 0.3][:count]
    method = MultiSlerp(weight=tuple(weights), normalize_weights=normalize)
    found = merged(method, MemorySite(models, base if has_base else None, run))
    if normalize:
        weights = [w / sum(weights) for w in weights]
    vectors = [(model - origin).astype(np.float64).ravel() for model in models]
    expected = models[0] if count == 1 else origin + tangent_mean(vectors, weights).reshape(shape)
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_limits_two_opposite_tensors_are_averaged() -> None:
    change = normal(4, 4, seed=0)
    found = merged(MultiSlerp(), MemorySite([change, -change]))
    assert np.allclose(found, 0.0)


def test_limits_directions_that_cancel_are_refused() -> None:
    change = normal(4, 4, seed=0)
    site = MemorySite([change, change, -2.0 * change])
    with pytest.raises(SettingsError, match="directions of the 3 models cancel in tensor 'tensor'"):
        merged(MultiSlerp(weight=(1.0, 1.0, 2.0)), site)


def test_limits_a_single_model_keeps_its_bits() -> None:
    models, base = tuned((5,), 1, seed=0)
    assert np.array_equal(merged(MultiSlerp(), MemorySite(models, base)), models[0])


def test_meaning_the_norm_survives_where_a_mean_loses_it() -> None:
    models = [normal(30, 30, seed=seed) for seed in range(4)]
    norm = np.linalg.norm(models[0])
    assert abs(np.linalg.norm(merged(MultiSlerp(), MemorySite(models))) / norm - 1) < 0.05
    assert np.linalg.norm(merged(Linear(), MemorySite(models))) / norm < 0.6
