import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from combine.merge.sites import COUNTS, SEEDS, MemorySite, merged, normal, tuned
from treadle.combine.merge.methods.iso_cts import IsoCts
from treadle.combine.merge.methods.isotropic import Isotropic


def strongest(matrix: np.ndarray, count: int) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """Singular values and vectors, by eigenvectors; a tie at the cut leaves the choice open."""
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    values, vectors = np.sqrt(np.maximum(values[::-1], 0)), vectors[:, ::-1]
    if 0 < count < min(matrix.shape):
        assume(values[count - 1] - values[count] > 0.05 * values[0])
    assume(count == 0 or values[count - 1] > 0.02 * values[0])
    return [(values[i], matrix @ vectors[:, i] / values[i], vectors[:, i]) for i in range(count)]


def nearest(columns: list[np.ndarray]) -> np.ndarray:
    """U (UᵀU)^-1/2."""
    matrix = np.array(columns).T
    values, vectors = np.linalg.eigh(matrix.T @ matrix)
    assume(values[0] > 1e-3)
    return matrix @ vectors @ np.diag(1 / np.sqrt(values)) @ vectors.T


@given(st.integers(4, 9), st.integers(4, 9), st.integers(1, 3), SEEDS)
def test_reference(rows, columns, count, seed) -> None:
    models, base = tuned((rows, columns), count, seed, distance=1.0)
    tasks = [(model - base).astype(np.float64) for model in models]
    rank = min(rows, columns)
    num_own = min(round((rank - int(0.5 * rank)) / count), rank // count)
    found = strongest(sum(tasks), rank - count * num_own)
    common = np.array([left for _, left, _ in found]).reshape(-1, rows).T
    for task in tasks:
        found += strongest(task - common @ common.T @ task, num_own)
    sizes, lefts, rights = zip(*found, strict=True)
    change = sum(sizes) / len(sizes) * nearest(list(lefts)) @ nearest(list(rights)).T
    merged_ = merged(IsoCts(common_fraction=0.5, lambda_=0.5), MemorySite(models, base))
    assert np.abs(merged_ - base - 0.5 * change).max() < 5e-3


@given(st.sampled_from([(), (5,), (3, 2, 4)]), COUNTS, SEEDS)
def test_reference_other_tensors_are_averaged(shape, count, seed) -> None:
    models, base = tuned(shape, count, seed)
    found = merged(IsoCts(), MemorySite(models, base))
    assert np.allclose(found, np.mean(models, axis=0), atol=1e-6)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (1, 4), (3, 3)])
def test_limits_all_common_or_one_task_is_isotropic(shape) -> None:
    models, base = tuned(shape, 3, seed=0)
    plain = merged(Isotropic(), MemorySite(models, base))
    found = merged(IsoCts(common_fraction=1.0), MemorySite(models, base))
    assert np.allclose(found, plain, atol=1e-5)
    plain = merged(Isotropic(), MemorySite(models[:1], base))
    assert np.allclose(merged(IsoCts(), MemorySite(models[:1], base)), plain, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1), (2, 8), (3, 7)])
def test_limits_more_tasks_than_directions_and_nothing_in_common(shape) -> None:
    models, base = tuned(shape, 4, seed=0)
    for fraction in (0.0, 0.8):
        found = merged(IsoCts(common_fraction=fraction), MemorySite(models, base))
        assert np.isfinite(found).all()
        strengths = np.linalg.svd(found - base, compute_uv=False)
        assert np.allclose(strengths, strengths[0], rtol=1e-4)


def test_limits_nothing_changed_gives_the_base() -> None:
    base = normal(4, 5, seed=0)
    assert np.allclose(merged(IsoCts(), MemorySite([base, base], base)), base, atol=1e-6)


def kept_of_the_weak(seed: int, method: IsoCts | Isotropic) -> float:
    """How much of a weak task's strongest direction is in the merge of it and three strong ones."""
    tasks = []
    for place in range(4):
        left, right = (
            np.linalg.qr(normal(16, 16, seed=8 * seed + 2 * place + s))[0] for s in (0, 1)
        )
        size = np.linspace(1.0, 0.5, 6, dtype=np.float32) * (0.3 if place == 3 else 1.0)
        tasks.append((left[:, :6] * size) @ right[:6])
    found = merged(method, MemorySite(tasks, np.zeros((16, 16), np.float32)))
    return float(left[:, 0] @ found @ right[0] / np.linalg.svd(found, compute_uv=False).mean())


def test_meaning_a_weak_task_keeps_more_of_its_own() -> None:
    own = [kept_of_the_weak(seed, IsoCts(common_fraction=0.5)) for seed in range(12)]
    flat = [kept_of_the_weak(seed, Isotropic()) for seed in range(12)]
    assert np.mean(own) > 1.2 * np.mean(flat)
