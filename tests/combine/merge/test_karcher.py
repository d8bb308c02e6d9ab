import numpy as np
from hypothesis import given

from combine.merge.sites import COUNTS, RUNS, SEEDS, SHAPES, MemorySite, merged, normal
from treadle.combine.merge.methods.karcher import Karcher
from treadle.combine.merge.methods.multislerp import MultiSlerp


def karcher(vectors: list[np.ndarray], max_iter: int = 10, tol: float = 1e-5) -> np.ndarray:
    """On the vectors themselves, in float64."""
    norms = [np.linalg.norm(v) for v in vectors]
    units = [v / n for v, n in zip(vectors, norms, strict=True) if n > tol]
    if not units:
        return np.zeros_like(vectors[0])
    mean = sum(units) / len(units)
    length = np.linalg.norm(mean)
    mean = units[0] if length < tol else mean / length
    for _ in range(max_iter):
        tangent = np.zeros_like(mean)
        for unit in units:
            dot = float(np.clip(mean @ unit, -1, 1))
            angle = np.arccos(dot)
            if angle >= tol:
                tangent += angle / np.sin(angle) * (unit - dot * mean) / len(units)
        length = np.linalg.norm(tangent)
        if length < tol:
            break
        mean = np.cos(length) * mean + np.sin(length) * tangent / length
        mean /= np.linalg.norm(mean)
    return sum(norms) / len(norms) * mean


def distance(mean: np.ndarray, models: list[np.ndarray]) -> float:
    """The sum of squared angles, which the Karcher mean minimises."""
    unit = mean.ravel() / np.linalg.norm(mean)
    cosines = [unit @ model.ravel() / np.linalg.norm(model) for model in models]
    return float(np.square(np.arccos(np.clip(cosines, -1, 1))).sum())


@given(SHAPES, COUNTS, SEEDS, RUNS)
def test_reference(shape, count, seed, run) -> None:
    # All on one side, as models are: opposite ones have no single mean.
    models = [np.abs(normal(*shape, seed=seed + place)) for place in range(count)]
    found = merged(Karcher(), MemorySite(models, run=run))
    expected = models[0] if count == 1 else karcher([m.astype(np.float64).ravel() for m in models])
    assert np.allclose(found.ravel(), np.ravel(expected), rtol=1e-4, atol=1e-5)


def test_limits_zeros_have_no_direction_but_count_for_the_norm() -> None:
    model, nothing = normal(3, 4, seed=0), np.zeros((3, 4), np.float32)
    assert np.allclose(merged(Karcher(), MemorySite([model, nothing])), model / 2, atol=1e-6)
    assert not merged(Karcher(), MemorySite([nothing, nothing])).any()


def test_limits_one_model_and_one_step() -> None:
    models = [normal(20, seed=seed) for seed in range(3)]
    assert np.array_equal(merged(Karcher(), MemorySite(models[:1])), models[0])
    without = merged(Karcher(max_iter=0), MemorySite(models))
    assert np.allclose(without, merged(MultiSlerp(), MemorySite(models)), atol=1e-5)


def test_limits_equal_models_stay() -> None:
    model = normal(4, 5, seed=0)
    assert np.allclose(merged(Karcher(), MemorySite([model] * 3)), model, atol=1e-6)


def test_meaning_the_distances_are_smaller_than_from_the_mean_direction() -> None:
    """Two models agree and one is far away: the mean through the sphere leans to the pair."""
    far = normal(20, 20, seed=0)
    near = normal(20, 20, seed=1)
    models = [near, near + 0.05 * normal(20, 20, seed=2), far - 0.5 * near]
    mine = merged(Karcher(), MemorySite(models))
    chord = merged(MultiSlerp(), MemorySite(models))
    assert distance(mine, models) < 0.99 * distance(chord, models)
