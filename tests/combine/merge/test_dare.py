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
    tuned,
)
from treadle.combine.merge.methods.dare import DareLinear, DareTies
from treadle.combine.merge.methods.task_arithmetic import TaskArithmetic
from treadle.native import elements

METHODS = pytest.mark.parametrize("method", [DareLinear, DareTies])


def thinned(values: list[float], key: int, density: float, rescale: bool) -> list[float]:
    draws = np.empty(len(values), np.float32)
    elements.uniform(key, 0, draws)
    kept = [
        value if density == 1.0 or draw < np.float32(density) else 0.0
        for value, draw in zip(values, draws, strict=True)
    ]
    before, after = sum(map(abs, values)), sum(map(abs, kept))
    factor = before / after if rescale and min(before, after) > 1e-7 else 1.0
    return [factor * value for value in kept]


@METHODS
@given(
    shape=SHAPES,
    count=COUNTS,
    seed=SEEDS,
    run=RUNS,
    density=st.sampled_from([0.0, 0.3, 1.0]),
    rescale=st.booleans(),
)
def test_reference(method, shape, count, seed, run, density, rescale) -> None:
    models, base = tuned(shape, count, seed)
    site = MemorySite(models, base, run, seed)
    weights = [1.0, 0.5, 2.0, 0.25][:count]
    vectors = [
        [weight * value for value in thinned(delta, key, density, rescale)]
        for weight, delta, key in zip(weights, deltas_of(models, base), site.keys, strict=True)
    ]
    if method is DareTies:
        change = elected(vectors, weights, normalize=False)
    else:
        change = [sum(column) for column in zip(*vectors, strict=True)]
    expected = [start + value for start, value in zip(flat(base), change, strict=True)]
    chosen = method(weight=tuple(weights), density=density, rescale=rescale)
    found = merged(chosen, site)
    assert close(found, expected)
    if not rescale:
        whole = merged(chosen, MemorySite(models, base, 1000, seed))
        assert np.array_equal(found, whole), "masks do not depend on runs"


@METHODS
def test_limits_density_zero_and_one(method) -> None:
    models, base = tuned((5, 6), 2, seed=0)
    assert np.array_equal(merged(method(density=0.0), MemorySite(models, base)), base)
    site = MemorySite(models[:1], base)
    assert np.allclose(merged(method(), site), models[0], atol=1e-7)
    assert site.num_passes == 1


@METHODS
def test_limits_nothing_changed(method) -> None:
    base = normal(4, 4, seed=0)
    assert np.array_equal(merged(method(density=0.5), MemorySite([base], base)), base)


@METHODS
def test_limits_the_seed_draws_the_mask(method) -> None:
    models, base = tuned((20,), 1, seed=0)
    runs = [merged(method(density=0.5), MemorySite(models, base, seed=seed)) for seed in (1, 1, 2)]
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


@METHODS
def test_meaning_a_tenth_of_the_elements_keeps_what_the_task_vector_does(method) -> None:
    """With the norm restored its product with an input stays; a bare mask loses most of it."""
    base = normal(8, 4000, seed=0)
    model = base + np.abs(normal(8, 4000, seed=1))
    whole = (model - base).sum(axis=1)
    rescaled = merged(method(density=0.1), MemorySite([model], base, 999)) - base
    bare = merged(method(density=0.1, rescale=False), MemorySite([model], base, 999)) - base
    assert np.abs(rescaled.sum(axis=1) / whole - 1).max() < 0.2
    assert np.abs(bare.sum(axis=1) / whole - 1).min() > 0.8
    assert np.count_nonzero(rescaled) == pytest.approx(3200, rel=0.1)
    everything = merged(TaskArithmetic(), MemorySite([model], base, 999)) - base
    assert np.abs(everything.sum(axis=1) / whole - 1).max() < 1e-4
