import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from combine.merge.sites import (
    COUNTS,
    RUNS,
    SEEDS,
    SHAPES,
    MemorySite,
    close,
    deltas_of,
    flat,
    merged,
    normal,
    tuned,
)
from treadle.combine.merge.methods.linear import Linear
from treadle.combine.merge.methods.task_arithmetic import TaskArithmetic
from treadle.core.errors import SettingsError


@given(SHAPES, COUNTS, SEEDS, RUNS, st.booleans(), st.sampled_from([0.0, 0.5, 1.0]))
def test_reference(shape, count, seed, run, normalize, factor) -> None:
    models, base = tuned(shape, count, seed)
    weights = [1.0, 0.5, 2.0, 0.25][:count]
    method = TaskArithmetic(weight=tuple(weights), lambda_=factor, normalize=normalize)
    divisor = sum(weights) if normalize else 1.0
    expected = [
        start + factor * sum(w * d for w, d in zip(weights, column, strict=True)) / divisor
        for start, column in zip(
            flat(base), zip(*deltas_of(models, base), strict=True), strict=True
        )
    ]
    found = merged(method, MemorySite(models, base, run))
    assert close(found, expected)
    assert np.array_equal(found, merged(method, MemorySite(models, base, 1000)))


def test_limits_no_distance_and_no_weight_give_the_base() -> None:
    models, base = tuned((3, 5), 2, seed=0)
    assert np.array_equal(merged(TaskArithmetic(), MemorySite([base, base], base)), base)
    assert np.array_equal(merged(TaskArithmetic(weight=0.0), MemorySite(models, base)), base)


def test_limits_weights_that_cannot_be_normalised() -> None:
    models, base = tuned((4,), 2, seed=0)
    with pytest.raises(SettingsError, match="sum to zero"):
        merged(TaskArithmetic(weight=(1.0, -1.0), normalize=True), MemorySite(models, base))
    with pytest.raises(SettingsError, match="3 values were given for 2 models"):
        merged(TaskArithmetic(weight=(1.0, 1.0, 1.0)), MemorySite(models, base))


def test_limits_lambda_is_read_by_both_names() -> None:
    assert TaskArithmetic(**{"lambda": 0.5}) == TaskArithmetic(lambda_=0.5)


def test_meaning_orthogonal_changes_survive_whole_where_a_mean_halves_them() -> None:
    base = normal(8, 8, seed=0)
    first, second = base.copy(), base.copy()
    first[:4] += 1.0
    second[4:] += 1.0
    found = merged(TaskArithmetic(), MemorySite([first, second], base))
    mean = merged(Linear(), MemorySite([first, second]))
    assert np.allclose(found, base + 1.0)
    assert np.allclose(mean, base + 0.5)
