import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from combine.merge.sites import COUNTS, RUNS, SEEDS, SHAPES, MemorySite, close, flat, merged, normal
from treadle.combine.merge.methods.linear import Linear
from treadle.core.errors import SettingsError


@given(SHAPES, COUNTS, SEEDS, RUNS, st.booleans())
def test_reference(shape, count, seed, run, normalize) -> None:
    models = [normal(*shape, seed=seed + place) for place in range(count)]
    weights = [1.0, 0.5, 2.0, 0.25][:count]
    divisor = sum(weights) if normalize else 1.0
    expected = [
        sum(w * value for w, value in zip(weights, column, strict=True)) / divisor
        for column in zip(*map(flat, models), strict=True)
    ]
    method = Linear(weight=tuple(weights), normalize=normalize)
    found = merged(method, MemorySite(models, run=run))
    assert close(found, expected)
    assert np.array_equal(found, merged(method, MemorySite(models, run=1000)))


def test_limits_one_model_keeps_its_bits_and_weights_choose() -> None:
    models = [normal(4, 5, seed=seed) for seed in range(2)]
    assert np.array_equal(merged(Linear(weight=3.0), MemorySite(models[:1])), models[0])
    assert np.array_equal(merged(Linear(weight=(0.0, 1.0)), MemorySite(models)), models[1])


def test_limits_weights_that_sum_to_zero() -> None:
    models = [normal(4, seed=seed) for seed in range(2)]
    with pytest.raises(SettingsError, match="sum to zero"):
        merged(Linear(weight=(1.0, -1.0)), MemorySite(models))


def test_meaning_the_mean_of_noisy_copies_is_nearer_than_any_of_them() -> None:
    wanted = normal(20, 20, seed=0)
    models = [wanted + normal(20, 20, seed=seed) for seed in range(1, 9)]
    errors = [np.linalg.norm(model - wanted) for model in models]
    assert np.linalg.norm(merged(Linear(), MemorySite(models)) - wanted) < 0.5 * min(errors)
