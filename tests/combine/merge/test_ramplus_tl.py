import numpy as np
import pytest
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
from treadle.combine.merge.methods.ram import Ram
from treadle.combine.merge.methods.ramplus_tl import RamPlusTl


def ram_plus(vectors: list[list[float]], r: float, alpha: float, epsilon: float) -> list[float]:
    columns = list(zip(*vectors, strict=True))
    who = [[n for n, v in enumerate(c) if abs(v) > np.float32(epsilon)] for c in columns]
    factors = []
    for model in range(len(vectors)):
        alone = sum(found == [model] for found in who)
        shared = sum(model in found for found in who) - alone
        factors.append(1 + r * min(shared / max(alone, 1), alpha))
    result = []
    for column, found in zip(columns, who, strict=True):
        if len(found) == 1:
            result.append(factors[found[0]] * column[found[0]])
        else:
            result.append(sum(column[n] for n in found) / max(1, len(found)))
    return result


@given(SHAPES, COUNTS, SEEDS, RUNS, st.sampled_from([0.0, 0.1, 0.2]), st.sampled_from([0.0, 5.0]))
def test_reference(shape, count, seed, run, epsilon, alpha) -> None:
    models, base = tuned(shape, count, seed)
    change = ram_plus(deltas_of(models, base), 0.4, alpha, epsilon)
    method = RamPlusTl(r=0.4, alpha=alpha, epsilon=epsilon)
    found = merged(method, MemorySite(models, base, run))
    assert close(found, [start + v for start, v in zip(flat(base), change, strict=True)])
    assert np.array_equal(found, merged(method, MemorySite(models, base, 1000)))


@pytest.mark.parametrize("settings", [{"r": 0.0}, {"alpha": 0.0}])
def test_limits_without_enlarging_it_is_ram(settings: dict[str, float]) -> None:
    models, base = tuned((4, 5), 3, seed=0)
    found = merged(RamPlusTl(epsilon=0.1, **settings), MemorySite(models, base))
    assert np.array_equal(found, merged(Ram(epsilon=0.1), MemorySite(models, base)))


def test_limits_nothing_changed_gives_the_base() -> None:
    base = normal(4, 5, seed=0)
    assert np.array_equal(merged(RamPlusTl(), MemorySite([base, base], base)), base)


def test_meaning_what_sharing_lost_is_made_up_for() -> None:
    """Half of a model's change is shared with an opposite one; its own half grows instead."""
    base, change = np.zeros(100, np.float32), np.ones(100, np.float32)
    other = np.where(np.arange(100) < 50, -0.5, 0.0).astype(np.float32)
    site = MemorySite([change, other], base)
    plus, plain = merged(RamPlusTl(), site), merged(Ram(), site)
    assert np.array_equal(plus[:50], plain[:50])
    assert np.allclose(plus[50:], 1.02)
    assert np.allclose(plain[50:], 1.0)
