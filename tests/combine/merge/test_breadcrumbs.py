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
    elected,
    flat,
    merged,
    normal,
    ranked,
    tuned,
)
from treadle.combine.merge.methods.breadcrumbs import Breadcrumbs, BreadcrumbsTies
from treadle.combine.merge.methods.task_arithmetic import TaskArithmetic

METHODS = pytest.mark.parametrize("method", [Breadcrumbs, BreadcrumbsTies])


def crumbs(values: list[float], density: float, gamma: float) -> list[float]:
    """Drop n - kept - bottom from the top, where bottom is what density and gamma leave."""
    size = len(values)
    if density == 1.0:
        return values
    kept = int(density * size)
    bottom = max(0, size - kept - int(gamma * size))
    ascending = ranked(values)[::-1]
    chosen = set(ascending[bottom : bottom + kept])
    return [value if place in chosen else 0.0 for place, value in enumerate(values)]


@METHODS
@given(
    shape=SHAPES,
    count=COUNTS,
    seed=SEEDS,
    run=RUNS,
    density=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    gamma=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    normalize=st.booleans(),
)
def test_reference(method, shape, count, seed, run, density, gamma, normalize) -> None:
    models, base = tuned(shape, count, seed)
    weights = [1.0, 0.5, 2.0, 0.25][:count]
    vectors = [
        [weight * value for value in crumbs(delta, density, gamma)]
        for weight, delta in zip(weights, deltas_of(models, base), strict=True)
    ]
    if method is BreadcrumbsTies:
        change = elected(vectors, weights, normalize)
    else:
        divisor = sum(weights) if normalize else 1.0
        change = [sum(column) / divisor for column in zip(*vectors, strict=True)]
    expected = [start + value for start, value in zip(flat(base), change, strict=True)]
    chosen = method(weight=tuple(weights), density=density, gamma=gamma, normalize=normalize)
    found = merged(chosen, MemorySite(models, base, run))
    assert close(found, expected)
    assert np.array_equal(found, merged(chosen, MemorySite(models, base, 1000)))


@METHODS
def test_limits_rescale_restores_the_norm(method) -> None:
    models, base = tuned((9, 9), 1, seed=0)
    found = merged(method(density=0.5, rescale=True), MemorySite(models, base, 10))
    assert np.abs(found - base).sum() == pytest.approx(np.abs(models[0] - base).sum(), rel=1e-5)


@METHODS
def test_limits_equal_magnitudes_lose_their_first_ones_at_the_top(method) -> None:
    base = np.zeros(10, np.float32)
    site = MemorySite([base + 1.0], base, 3)
    found = merged(method(density=0.5, gamma=0.2), site)
    assert found.tolist() == [0, 0, 1, 1, 1, 1, 1, 0, 0, 0]


@METHODS
def test_limits_nothing_changed(method) -> None:
    base = normal(4, 4, seed=0)
    found = merged(method(density=0.5, gamma=0.1, rescale=True), MemorySite([base, base], base))
    assert np.array_equal(found, base)


@METHODS
def test_meaning_outliers_of_one_model_do_not_spoil_the_sum(method) -> None:
    base, wanted = normal(20, 20, seed=0), normal(20, 20, seed=1)
    broken = wanted.copy()
    broken[3, :4] = 100.0
    site = MemorySite([base + broken], base)
    error = np.abs(merged(method(density=0.9, gamma=0.01), site) - base - wanted).mean()
    assert error < 0.2 * np.abs(merged(TaskArithmetic(), site) - base - wanted).mean()
