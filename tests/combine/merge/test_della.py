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
from treadle.combine.merge.methods.dare import DareLinear
from treadle.combine.merge.methods.della import Della, DellaLinear
from treadle.core.errors import SettingsError
from treadle.native import elements

METHODS = pytest.mark.parametrize("method", [Della, DellaLinear])


def probabilities(row: list[float], density: float, epsilon: float) -> list[float]:
    """One for each place: its rank from the smallest on, spread over density ± epsilon."""
    found = [density] * len(row)
    # Of equal magnitudes the first ranks lowest.
    ascending = sorted(range(len(row)), key=lambda place: (abs(row[place]), place))
    for rank, place in enumerate(ascending):
        if len(row) > 1:
            found[place] = density - epsilon + 2 * epsilon * rank / (len(row) - 1)
    return found


def thinned(
    values: list[float], width: int, key: int, density: float, rescale: bool
) -> list[float]:
    draws = np.empty(len(values), np.float32)
    elements.uniform(key, 0, draws)
    kept = []
    for first in range(0, len(values), width):
        row = values[first : first + width]
        chances = probabilities(row, density, 0.15)
        for place, chance in enumerate(chances):
            stays = density == 1.0 or (density > 0 and draws[first + place] < np.float32(chance))
            kept.append(row[place] if stays else 0.0)
    before, after = sum(map(abs, values)), sum(map(abs, kept))
    factor = before / after if rescale and min(before, after) > 1e-7 else 1.0
    return [factor * value for value in kept]


@METHODS
@given(
    shape=SHAPES,
    count=COUNTS,
    seed=SEEDS,
    run=RUNS,
    density=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    rescale=st.booleans(),
)
def test_reference(method, shape, count, seed, run, density, rescale) -> None:
    models, base = tuned(shape, count, seed)
    site = MemorySite(models, base, run, seed)
    weights = [1.0, 0.5, 2.0, 0.25][:count]
    width = shape[-1] if shape else 1
    vectors = [
        [weight * value for value in thinned(delta, width, key, density, rescale)]
        for weight, delta, key in zip(weights, deltas_of(models, base), site.keys, strict=True)
    ]
    if method is Della:
        change = elected(vectors, weights, normalize=False)
    else:
        change = [sum(column) for column in zip(*vectors, strict=True)]
    expected = [start + value for start, value in zip(flat(base), change, strict=True)]
    chosen = method(weight=tuple(weights), density=density, rescale=rescale, normalize=False)
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
def test_limits_rows_of_one_element_stay_with_the_density(method) -> None:
    base = np.zeros((4000, 1), np.float32)
    site = MemorySite([base + 1.0], base, 333)
    found = merged(method(density=0.4, rescale=False, normalize=False), site)
    assert np.mean(found != 0) == pytest.approx(0.4, abs=0.03)


@METHODS
def test_limits_probabilities_beyond_zero_and_one_are_refused(method) -> None:
    with pytest.raises(ValueError, match=r"density 0\.9 ± epsilon 0\.15 reaches 0 or 1"):
        method(density=0.9)
    with pytest.raises(ValueError, match="reaches 0 or 1"):
        method(density=(0.5, 0.1))


@METHODS
def test_limits_a_wrong_number_of_values(method) -> None:
    models, base = tuned((5, 6), 1, seed=0)
    wrong = method(density=(0.5, 0.5), epsilon=(0.1, 0.1, 0.1))
    with pytest.raises(SettingsError, match="2 values were given for 1 models"):
        merged(wrong, MemorySite(models, base))


@METHODS
def test_meaning_large_changes_survive_more_often_than_under_dare(method) -> None:
    base = np.zeros((50, 200), np.float32)
    model = normal(50, 200, seed=0)
    large = np.zeros_like(model, bool)
    for row, values in zip(large, model.tolist(), strict=True):
        row[ranked(values)[:20]] = True
    kept = merged(
        method(density=0.5, epsilon=0.4, rescale=False, normalize=False), MemorySite([model], base)
    )
    other = merged(DareLinear(density=0.5, rescale=False), MemorySite([model], base))
    assert np.mean(kept[large] != 0) > 0.8
    assert np.mean(other[large] != 0) < 0.6
    assert np.mean(kept != 0) == pytest.approx(0.5, abs=0.02)
