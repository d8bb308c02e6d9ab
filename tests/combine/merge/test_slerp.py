import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from combine.merge.sites import RUNS, SEEDS, SHAPES, MemorySite, close, flat, merged, normal
from treadle.combine.merge.methods.linear import Linear
from treadle.combine.merge.methods.slerp import Slerp


def arc(first: list[float], second: list[float], t: float) -> list[float]:
    lengths = [math.sqrt(math.fsum(x * x for x in v)) for v in (first, second)]
    dot = math.fsum(x * y for x, y in zip(first, second, strict=True))
    cosine = dot / (lengths[0] * lengths[1])
    if abs(cosine) > 0.9995:
        a, b = 1 - t, t
    else:
        angle = math.acos(cosine)
        a = math.sin((1 - t) * angle) / math.sin(angle)
        b = math.sin(t * angle) / math.sin(angle)
    return [a * x + b * y for x, y in zip(first, second, strict=True)]


@given(SHAPES, SEEDS, RUNS, st.floats(0.0, 1.0))
def test_reference(shape, seed, run, t) -> None:
    base, model = normal(*shape, seed=seed), normal(*shape, seed=seed + 1)
    found = merged(Slerp(t=t), MemorySite([model], base, run))
    assert close(found, arc(flat(base), flat(model), t))


def test_limits_both_ends() -> None:
    base, model = normal(4, 5, seed=0), normal(4, 5, seed=1)
    assert np.allclose(merged(Slerp(t=0.0), MemorySite([model], base)), base, atol=1e-6)
    assert np.allclose(merged(Slerp(t=1.0), MemorySite([model], base)), model, atol=1e-6)


@pytest.mark.parametrize("factor", [1.0, -1.0, 0.0, 3.0])
def test_limits_parallel_opposite_and_zero_are_mixed_linearly(factor: float) -> None:
    base = normal(4, 5, seed=0)
    found = merged(Slerp(t=0.25), MemorySite([factor * base], base))
    if factor:
        assert np.allclose(found, (0.75 + 0.25 * factor) * base, atol=1e-6)
    assert np.isfinite(found).all()


def test_limits_t_is_required_and_a_fraction() -> None:
    for settings in ({}, {"t": 1.5}):
        with pytest.raises(ValueError, match="t\n"):
            Slerp(**settings)


def test_meaning_the_norm_survives_where_a_mean_loses_it() -> None:
    base, model = normal(30, 30, seed=0), normal(30, 30, seed=1)
    norm = np.linalg.norm(base)
    found = merged(Slerp(t=0.5), MemorySite([model], base))
    mean = merged(Linear(), MemorySite([base, model]))
    assert abs(np.linalg.norm(found) / norm - 1) < 0.05
    assert np.linalg.norm(mean) / norm < 0.8
