import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from combine.merge.sites import RUNS, SEEDS, SHAPES, MemorySite, merged, normal, tuned
from treadle.combine.merge.methods.linear import Linear
from treadle.combine.merge.methods.nuslerp import NuSlerp


def arc(first: np.ndarray, second: np.ndarray, t: float) -> np.ndarray:
    """Between two vectors, in float64."""
    lengths = [max(np.linalg.norm(v), 1e-300) for v in (first, second)]
    cosine = float(np.clip(first @ second / (lengths[0] * lengths[1]), -1, 1))
    if 1 - cosine**2 <= 1e-12:
        return (1 - t) * first + t * second
    angle = np.arccos(cosine)
    return (np.sin((1 - t) * angle) * first + np.sin(t * angle) * second) / np.sin(angle)


@given(SHAPES, SEEDS, RUNS, st.booleans(), st.sampled_from(["flat", "last", "first"]))
def test_reference(shape, seed, run, has_base, along) -> None:
    models, base = tuned(shape, 2, seed, distance=1.0)
    origin = base if has_base else np.zeros_like(base)
    ends = [(model - origin).astype(np.float64) for model in models]
    settings = {
        "flat": {},
        "last": {"nuslerp_flatten": False},
        "first": {"nuslerp_flatten": False, "nuslerp_row_wise": True},
    }[along]
    if along == "flat" or not shape:
        change = arc(*(end.ravel() for end in ends), 0.75).reshape(shape)
    else:
        axis = -1 if along == "last" else 0
        rows = [np.moveaxis(end, axis, -1).reshape(-1, shape[axis]) for end in ends]
        change = np.array([arc(*pair, 0.75) for pair in zip(*rows, strict=True)])
        moved = np.moveaxis(ends[0], axis, -1).shape
        change = np.moveaxis(change.reshape(moved), -1, axis)
    method = NuSlerp(weight=(0.5, 1.5), **settings)
    found = merged(method, MemorySite(models, base if has_base else None, run))
    # Nearly opposite vectors divide by a small sine.
    assert np.allclose(found, origin + change, rtol=1e-4, atol=1e-4)


def test_limits_weights_that_sum_to_zero_mean_half() -> None:
    models, _ = tuned((3, 4), 2, seed=0)
    half = merged(NuSlerp(), MemorySite(models))
    assert np.array_equal(merged(NuSlerp(weight=(1.0, -1.0)), MemorySite(models)), half)
    assert np.array_equal(merged(NuSlerp(weight=0.0), MemorySite(models)), half)


@pytest.mark.parametrize("flatten", [True, False])
def test_limits_opposite_and_unchanged_tensors_stay_finite(flatten: bool) -> None:
    base, change = normal(3, 4, seed=0), normal(3, 4, seed=1)
    method = NuSlerp(nuslerp_flatten=flatten)
    assert np.allclose(merged(method, MemorySite([change, -change])), 0.0, atol=1e-6)
    assert np.array_equal(merged(method, MemorySite([base, base], base)), base)


def test_meaning_the_norm_of_task_vectors_survives_where_a_mean_loses_it() -> None:
    models, base = tuned((30, 30), 2, seed=0)
    norm = np.linalg.norm(models[0] - base)
    found = merged(NuSlerp(), MemorySite(models, base)) - base
    mean = merged(Linear(), MemorySite(models)) - base
    assert abs(np.linalg.norm(found) / norm - 1) < 0.05
    assert np.linalg.norm(mean) / norm < 0.8
