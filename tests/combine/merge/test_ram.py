import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from combine.merge.sites import (
    COUNTS,
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
from treadle.combine.merge.methods.linear import Linear
from treadle.combine.merge.methods.ram import Ram


@given(SHAPES, COUNTS, SEEDS, RUNS, st.sampled_from([0.0, 0.05, 0.1, 10.0]))
def test_reference(shape, count, seed, run, epsilon) -> None:
    models, base = tuned(shape, count, seed)
    expected = []
    vectors = zip(*deltas_of(models, base), strict=True)
    for start, column in zip(flat(base), vectors, strict=True):
        changed = [value for value in column if abs(value) > np.float32(epsilon)]
        expected.append(start + sum(changed) / max(1, len(changed)))
    method = Ram(epsilon=epsilon)
    found = merged(method, MemorySite(models, base, run))
    assert close(found, expected)
    assert np.array_equal(found, merged(method, MemorySite(models, base, 1000)))


def test_limits_nothing_changed_gives_the_base() -> None:
    base = normal(4, 5, seed=0)
    assert np.array_equal(merged(Ram(), MemorySite([base, base], base)), base)


def test_limits_a_change_of_epsilon_is_none() -> None:
    base = np.zeros(3, np.float32)
    assert not merged(Ram(epsilon=0.5), MemorySite([base + 0.5], base)).any()


def test_meaning_sparse_changes_survive_whole_where_a_mean_thirds_them() -> None:
    base = normal(30, 10, seed=0)
    models = [base.copy() for _ in range(3)]
    for place, model in enumerate(models):
        model[10 * place : 10 * place + 10] += 1.0
    assert np.allclose(merged(Ram(), MemorySite(models, base)), base + 1.0, atol=1e-6)
    assert np.allclose(merged(Linear(), MemorySite(models)), base + 1 / 3, atol=1e-6)
