import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from combine.merge.sites import COUNTS, SEEDS, MemorySite, merged, normal, tuned
from treadle.combine.merge.methods.task_arithmetic import TaskArithmetic
from treadle.combine.merge.methods.tsv import TaskSingularVectors


def inverse_root(gram: np.ndarray) -> np.ndarray:
    """The whitening form of the nearest orthonormal matrix: U (UᵀU)^-1/2."""
    values, vectors = np.linalg.eigh(gram)
    return vectors @ np.diag(1 / np.sqrt(values)) @ vectors.T


def task_singular_vectors(matrices: list[np.ndarray]) -> np.ndarray:
    """In float64, by eigenvectors."""
    kept = max(1, min(matrices[0].shape) // len(matrices))
    left, strength, right = [], [], []
    for matrix in matrices:
        values, vectors = np.linalg.eigh(matrix.T @ matrix)
        for place in np.argsort(-values)[:kept]:
            size = np.sqrt(values[place])
            right.append(vectors[:, place])
            left.append(matrix @ vectors[:, place] / size)
            strength.append(size)
    u, v = np.array(left).T, np.array(right).T
    u, v = u @ inverse_root(u.T @ u), v @ inverse_root(v.T @ v)
    return u @ np.diag(strength) @ v.T


@given(st.integers(4, 9), st.integers(4, 9), COUNTS, SEEDS)
def test_reference(rows, columns, count, seed) -> None:
    models, base = tuned((rows, columns), count, seed, distance=1.0)
    change = task_singular_vectors([(model - base).astype(np.float64) for model in models])
    found = merged(TaskSingularVectors(lambda_=0.5), MemorySite(models, base))
    # A nearly dependent pair of vectors loses digits in the eigenvalue form.
    assert np.abs(found - base - 0.5 * change).max() < 5e-3


@given(st.sampled_from([(), (5,), (3, 2, 4)]), COUNTS, SEEDS)
def test_reference_other_tensors_are_averaged(shape, count, seed) -> None:
    models, base = tuned(shape, count, seed)
    found = merged(TaskSingularVectors(), MemorySite(models, base))
    assert np.allclose(found, np.mean(models, axis=0), atol=1e-6)


def test_limits_one_model_is_taken_whole() -> None:
    models, base = tuned((5, 8), 1, seed=0)
    found = merged(TaskSingularVectors(), MemorySite(models, base))
    assert np.allclose(found, models[0], atol=1e-5)


def test_limits_more_models_than_the_rank() -> None:
    models, base = tuned((2, 8), 4, seed=0)
    assert np.isfinite(merged(TaskSingularVectors(), MemorySite(models, base))).all()
    models, base = tuned((1, 1), 2, seed=0)
    assert np.isfinite(merged(TaskSingularVectors(), MemorySite(models, base))).all()


def test_limits_nothing_changed_gives_the_base() -> None:
    base = normal(4, 5, seed=0)
    found = merged(TaskSingularVectors(), MemorySite([base, base], base))
    assert np.allclose(found, base, atol=1e-6)


def disturbance_ratio(seed: int) -> float:
    """Of what a merged matrix answers wrongly to each task's own inputs: ours over a sum's."""
    tasks, inputs = [], []
    for place in range(2 * seed, 2 * seed + 2):
        left, right = (np.linalg.qr(normal(30, 30, seed=2 * place + side))[0] for side in (0, 1))
        tasks.append((left * 0.5 ** np.arange(30)) @ right.T)
        inputs.append(right[:, :15])

    def error(found: np.ndarray) -> float:
        pairs = zip(tasks, inputs, strict=True)
        return sum(float(np.linalg.norm((found - task) @ x)) for task, x in pairs)

    site = MemorySite(tasks, np.zeros((30, 30), np.float32))
    return error(merged(TaskSingularVectors(), site)) / error(merged(TaskArithmetic(), site))


def test_meaning_tasks_disturb_each_other_less_than_in_a_sum() -> None:
    assert np.mean([disturbance_ratio(seed) for seed in range(20)]) < 0.95
