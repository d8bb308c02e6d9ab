import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from combine.merge.sites import (
    PAIRS,
    RUNS,
    SEEDS,
    SHAPES,
    MemorySite,
    close,
    deltas_of,
    flat,
    merged,
    normal,
    tuned,
)
from treadle.combine.merge.methods.consensus import Consensus
from treadle.combine.merge.methods.task_arithmetic import TaskArithmetic
from treadle.core.errors import SettingsError


@given(SHAPES, PAIRS, SEEDS, RUNS, st.integers(1, 2), st.sampled_from([0.0, 0.4, 1.3]))
def test_reference(shape, count, seed, run, num_needing, mask_lambda) -> None:
    models, base = tuned(shape, count, seed)
    weights = [1.0, 0.5, 2.0, 0.25][:count]
    expected = []
    vectors = zip(*deltas_of(models, base), strict=True)
    for start, column in zip(flat(base), vectors, strict=True):
        parts = [weight * value for weight, value in zip(weights, column, strict=True)]
        total = sum(parts)
        needing = sum(abs(part) >= mask_lambda * abs(total - part) for part in parts)
        expected.append(start + 0.7 * total * (needing >= num_needing))
    method = Consensus(
        weight=tuple(weights), mask_lambda=mask_lambda, num_needing=num_needing, lambda_=0.7
    )
    found = merged(method, MemorySite(models, base, run))
    assert close(found, expected, tolerance=5e-6)
    assert np.array_equal(found, merged(method, MemorySite(models, base, 1000)))


def test_limits_if_all_are_needed_it_is_task_arithmetic() -> None:
    models, base = tuned((4, 5), 3, seed=0)
    found = merged(Consensus(mask_lambda=0.0, num_needing=3), MemorySite(models, base))
    assert np.allclose(found, merged(TaskArithmetic(), MemorySite(models, base)), atol=1e-6)


def test_limits_more_models_needing_than_there_are() -> None:
    models, base = tuned((4, 5), 2, seed=0)
    with pytest.raises(SettingsError, match="what 3 models need, but only 2 are merged"):
        merged(Consensus(num_needing=3), MemorySite(models, base))


def test_limits_nothing_changed_gives_the_base() -> None:
    base = normal(4, 5, seed=0)
    assert np.array_equal(merged(Consensus(), MemorySite([base, base], base)), base)


def test_meaning_selfish_changes_go_and_shared_ones_stay() -> None:
    base, shared = normal(40, 10, seed=0), np.zeros((40, 10), np.float32)
    shared[:10] = 1.0
    models = []
    for place in range(3):
        own = np.zeros_like(shared)
        own[10 + 10 * place : 20 + 10 * place] = 5.0
        models.append(base + shared + own + 0.01 * normal(40, 10, seed=place + 1))
    found = merged(Consensus(), MemorySite(models, base)) - base
    plain = merged(TaskArithmetic(), MemorySite(models, base)) - base
    assert np.abs(found[10:]).mean() < 0.1 * np.abs(plain[10:]).mean()
    assert np.allclose(found[:10], 3.0, atol=0.1)
