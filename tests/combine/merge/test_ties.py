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
from treadle.combine.merge.methods.task_arithmetic import TaskArithmetic
from treadle.combine.merge.methods.ties import Ties

DENSITIES = st.sampled_from([0.0, 0.1, 0.34, 0.7, 1.0])


def trimmed(values: list[float], density: float) -> list[float]:
    kept = max(1, int(density * len(values))) if density else 0
    chosen = set(ranked(values)[:kept])
    return [value if place in chosen else 0.0 for place, value in enumerate(values)]


@given(SHAPES, COUNTS, SEEDS, RUNS, DENSITIES, st.booleans(), st.booleans())
def test_reference(shape, count, seed, run, density, normalize, rescale) -> None:
    models, base = tuned(shape, count, seed)
    weights = [1.0, 0.5, 2.0, 0.25][:count]
    densities = [density, 0.5, 0.2, 1.0][:count]
    method = Ties(
        weight=tuple(weights), density=tuple(densities), normalize=normalize, rescale=rescale
    )
    vectors = []
    for delta, weight, share in zip(deltas_of(models, base), weights, densities, strict=True):
        kept = trimmed(delta, share)
        before, after = sum(map(abs, delta)), sum(map(abs, kept))
        factor = before / after if rescale and min(before, after) > 1e-7 else 1.0
        vectors.append([weight * factor * value for value in kept])
    change = elected(vectors, weights, normalize)
    expected = [start + value for start, value in zip(flat(base), change, strict=True)]
    found = merged(method, MemorySite(models, base, run))
    assert close(found, expected)
    if not rescale:
        assert np.array_equal(found, merged(method, MemorySite(models, base, 1000)))


def test_limits_density_zero_one_and_one_model() -> None:
    models, base = tuned((5, 7), 1, seed=0)
    assert np.array_equal(merged(Ties(density=0.0), MemorySite(models, base)), base)
    assert np.allclose(merged(Ties(), MemorySite(models, base)), models[0], atol=1e-7)
    assert np.array_equal(merged(Ties(density=0.3), MemorySite([base], base)), base)


def test_limits_one_element_is_kept_at_any_density_above_zero() -> None:
    models, base = tuned((1,), 1, seed=0)
    assert np.allclose(merged(Ties(density=0.01), MemorySite(models, base)), models[0])


@pytest.mark.parametrize("run", [1, 3, 100])
def test_limits_of_equal_magnitudes_the_first_stay(run: int) -> None:
    delta = np.array([1, -2, 1, 2, -1, 1, 3, 1, -1, 0], np.float32)
    base = np.zeros(10, np.float32)
    found = merged(Ties(density=0.5), MemorySite([delta], base, run))
    assert found.tolist() == [1, -2, 1, 2, 0, 0, 3, 0, 0, 0]


def test_limits_opposite_equal_changes_elect_plus() -> None:
    base = np.zeros(3, np.float32)
    site = MemorySite([base + 1.0, base - 1.0], base)
    assert merged(Ties(), site).tolist() == [1.0, 1.0, 1.0]


def test_limits_passes_that_are_not_needed_are_not_taken() -> None:
    models, base = tuned((6, 6), 2, seed=0)
    for method, passes in (
        (Ties(), 1),
        (Ties(rescale=True), 1),
        (Ties(density=0.5), 3),
        (Ties(density=0.5, rescale=True), 4),
    ):
        site = MemorySite(models, base)
        merged(method, site)
        assert site.num_passes == passes


def test_limits_densities_are_shares() -> None:
    with pytest.raises(ValueError, match="less than or equal to 1"):
        Ties(density=(0.5, 1.5))


def test_meaning_small_noise_does_not_dilute_a_large_change() -> None:
    """Two models changed different halves; each leaves noise where the other worked."""
    base, noise = normal(40, 10, seed=0), 0.05
    wanted = np.ones((40, 10), np.float32)
    first, second = noise * normal(40, 10, seed=1), noise * normal(40, 10, seed=2)
    first[:20] += wanted[:20]
    second[20:] += wanted[20:]
    site = MemorySite([base + first, base + second], base)
    error = np.abs(merged(Ties(density=0.5), site) - base - wanted).mean()
    sums = np.abs(merged(TaskArithmetic(), site) - base - wanted).mean()
    assert error < 0.8 * sums
