import numpy as np
from hypothesis import given

from combine.merge.sites import RUNS, SEEDS, SHAPES, MemorySite, merged, normal, tuned
from treadle.combine.merge.methods.arcee_fusion import ArceeFusion


def softmax(rows: np.ndarray) -> np.ndarray:
    found = np.exp(rows - rows.max(axis=-1, keepdims=True))
    return found / found.sum(axis=-1, keepdims=True) + 1e-8


def importances(model: np.ndarray, base: np.ndarray) -> np.ndarray:
    """In float64, with the divergence of each row as float32 stores it."""
    p, q = softmax(np.atleast_1d(model).astype(float)), softmax(np.atleast_1d(base).astype(float))
    divergence = np.maximum((p * np.log(p / q)).sum(axis=-1, keepdims=True), 0.0)
    return np.abs(np.atleast_1d(model - base).astype(float)) * divergence


@given(SHAPES, SEEDS, RUNS)
def test_reference(shape, seed, run) -> None:
    (model,), base = tuned(shape, 1, seed)
    found = merged(ArceeFusion(), MemorySite([model], base, run)).reshape(-1)
    importance = importances(model, base).reshape(-1)
    ascending = np.sort(importance)
    first, median, third = (ascending[int(q * (ascending.size - 1))] for q in (0.25, 0.5, 0.75))
    threshold = median + 1.5 * (third - first)
    takes = importance >= threshold
    # An importance within rounding of the threshold may fall on either side.
    is_clear = np.abs(importance - threshold) > 1e-4 * threshold + 1e-12
    expected = np.where(takes, model.reshape(-1), base.reshape(-1))
    assert np.allclose(found[is_clear], expected[is_clear], atol=1e-6)


def test_limits_runs_do_not_matter() -> None:
    (model,), base = tuned((9, 11), 1, seed=0)
    every = [merged(ArceeFusion(), MemorySite([model], base, run)) for run in (1, 30, 1000)]
    assert np.array_equal(every[0], every[1])
    assert np.array_equal(every[0], every[2])


def test_limits_nothing_changed_and_one_element() -> None:
    base = normal(4, 5, seed=0)
    assert np.array_equal(merged(ArceeFusion(), MemorySite([base], base)), base)
    found = merged(ArceeFusion(), MemorySite([base[:1, :1] + 1.0], base[:1, :1]))
    assert np.isfinite(found).all()


def test_meaning_it_takes_the_change_and_leaves_the_noise() -> None:
    base = normal(40, 50, seed=0)
    model = base + 0.001 * normal(40, 50, seed=1)
    model[:4] += np.float32(0.5) * np.sign(normal(4, 50, seed=2))
    found = merged(ArceeFusion(), MemorySite([model], base, 100))
    assert np.allclose(found[:4], model[:4], atol=1e-6)
    # Half of the untouched rows lie below the median, the rest near it.
    assert np.mean(found[4:] == base[4:]) > 0.75
