import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from combine.merge.sites import RUNS, SEEDS, SHAPES, MemorySite, close, flat, merged, normal
from treadle.combine.merge.methods.linear import Linear
from treadle.combine.merge.methods.passthrough import Passthrough
from treadle.core.errors import SettingsError


@given(SHAPES, SEEDS, RUNS, st.sampled_from([0.0, 0.5, 1.0, -2.0]))
def test_reference(shape, seed, run, scale) -> None:
    model = normal(*shape, seed=seed)
    found = merged(Passthrough(scale=scale), MemorySite([model], run=run))
    assert close(found, [scale * value for value in flat(model)])


def test_limits_a_scale_of_one_keeps_the_bits() -> None:
    model = normal(9, seed=0)
    model[3] = -0.0
    found = merged(Passthrough(), MemorySite([model]))
    assert found.tobytes() == model.tobytes()


def test_limits_one_scale_for_one_model() -> None:
    with pytest.raises(SettingsError, match="2 values were given for 1 models"):
        merged(Passthrough(scale=(1.0, 2.0)), MemorySite([normal(3, seed=0)]))


def test_meaning_the_factor_survives_where_normalised_weights_lose_it() -> None:
    model = normal(9, seed=0)
    assert np.array_equal(merged(Passthrough(scale=0.5), MemorySite([model])), model / 2)
    assert np.array_equal(merged(Linear(weight=0.5), MemorySite([model])), model)
