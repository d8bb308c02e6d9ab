import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from combine.merge.sites import COUNTS, SEEDS, MemorySite, merged, normal, tuned
from treadle.combine.merge.methods.isotropic import Isotropic
from treadle.combine.merge.methods.task_arithmetic import TaskArithmetic


@given(st.integers(2, 9), st.integers(2, 9), COUNTS, SEEDS)
def test_reference(rows, columns, count, seed) -> None:
    models, base = tuned((rows, columns), count, seed, distance=1.0)
    total = sum((model - base).astype(np.float64) for model in models)
    if rows > columns:
        total = total.T
    # U Vᵀ is (M Mᵀ)^-1/2 M, and the singular values are the roots of M Mᵀ's.
    values, vectors = np.linalg.eigh(total @ total.T)
    change = vectors @ np.diag(np.sqrt(values).mean() / np.sqrt(values)) @ vectors.T @ total
    change = change.T if rows > columns else change
    found = merged(Isotropic(lambda_=0.5), MemorySite(models, base))
    assert np.abs(found - base - 0.5 * change).max() < 5e-3


@given(st.sampled_from([(), (5,), (3, 2, 4)]), COUNTS, SEEDS)
def test_reference_other_tensors_are_averaged(shape, count, seed) -> None:
    models, base = tuned(shape, count, seed)
    found = merged(Isotropic(), MemorySite(models, base))
    assert np.allclose(found, np.mean(models, axis=0), atol=1e-6)


def test_limits_nothing_changed_gives_the_base() -> None:
    base = normal(4, 5, seed=0)
    assert np.allclose(merged(Isotropic(), MemorySite([base, base], base)), base, atol=1e-6)


def test_limits_one_row_and_one_element_are_a_plain_sum() -> None:
    for shape in ((1, 6), (6, 1), (1, 1)):
        models, base = tuned(shape, 2, seed=0)
        found = merged(Isotropic(), MemorySite(models, base))
        plain = merged(TaskArithmetic(), MemorySite(models, base))
        assert np.allclose(found, plain, atol=1e-5)


def test_meaning_a_strong_task_does_not_drown_a_weak_one() -> None:
    left, right = (np.linalg.qr(normal(8, 8, seed=seed))[0] for seed in (0, 1))
    base = np.zeros((8, 8), np.float32)
    strong = 10.0 * left[:, :4] @ right[:4]
    weak = left[:, 4:] @ right[4:]
    change = merged(Isotropic(), MemorySite([strong, weak], base))
    plain = merged(TaskArithmetic(), MemorySite([strong, weak], base))

    def balance(found: np.ndarray) -> float:
        sizes = [np.linalg.norm(found @ right[part].T) for part in (slice(4), slice(4, 8))]
        return float(min(sizes) / max(sizes))

    assert balance(change) > 0.95
    assert balance(plain) < 0.15
