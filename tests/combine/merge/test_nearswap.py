import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from combine.merge.sites import RUNS, SEEDS, SHAPES, MemorySite, close, flat, merged, normal, tuned
from treadle.combine.merge.methods.linear import Linear
from treadle.combine.merge.methods.nearswap import NearSwap


@given(SHAPES, SEEDS, RUNS, st.sampled_from([0.0, 1e-7, 0.05, 10.0]))
def test_reference(shape, seed, run, t) -> None:
    (model,), base = tuned(shape, 1, seed)
    expected = []
    for a, b in zip(flat(base), flat(model), strict=True):
        weight = min(1.0, t / max(abs(a - b), 1e-6))
        expected.append(weight * b + (1 - weight) * a)
    found = merged(NearSwap(t=t), MemorySite([model], base, run))
    assert close(found, expected)
    assert np.array_equal(found, merged(NearSwap(t=t), MemorySite([model], base, 1000)))


def test_limits_t_of_zero_and_above_all() -> None:
    (model,), base = tuned((4, 5), 1, seed=0)
    assert np.array_equal(merged(NearSwap(t=0.0), MemorySite([model], base)), base)
    assert np.allclose(merged(NearSwap(t=9.0), MemorySite([model], base)), model, atol=1e-7)
    assert np.array_equal(merged(NearSwap(t=0.1), MemorySite([base], base)), base)


def test_limits_t_is_not_negative() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        NearSwap(t=-1.0)


def test_meaning_a_few_broken_weights_do_no_harm() -> None:
    base = normal(20, 20, seed=0)
    model = base + 0.01
    model[0, :3] = 1000.0
    found = merged(NearSwap(t=0.01), MemorySite([model], base))
    assert np.abs(found - base - 0.01).max() < 1e-4
    assert np.abs(merged(Linear(), MemorySite([base, model])) - base).max() > 100
