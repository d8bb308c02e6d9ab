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
    ranked,
    tuned,
)
from treadle.combine.merge.methods.linear import Linear
from treadle.combine.merge.methods.sce import Sce


def variance(column: list[float]) -> float:
    mean = sum(column) / len(column)
    return sum((value - mean) ** 2 for value in column) / len(column)


def select_calculate_erase(vectors: list[list[float]], share: float) -> list[float]:
    columns = [list(column) for column in zip(*vectors, strict=True)]
    if share < 1:
        variances = [variance(column) for column in columns]
        kept = int(share * sum(value > 0 for value in variances))
        chosen = set(ranked(variances)[:kept])
        columns = [
            column if place in chosen else [0.0] * len(column)
            for place, column in enumerate(columns)
        ]
    squares = [sum(c[n] ** 2 for c in columns) / len(columns) for n in range(len(vectors))]
    total = sum(squares)
    weights = [s / total for s in squares] if total >= 1e-6 else [1 / len(squares)] * len(squares)
    found = []
    for column in columns:
        sign = 1 if sum(np.float32(value) for value in column) >= 0 else -1
        agree = [n for n, value in enumerate(column) if value * sign > 0]
        found.append(
            sum(weights[n] * column[n] for n in agree) / max(1e-6, sum(weights[n] for n in agree))
        )
    return found


@given(SHAPES, COUNTS, SEEDS, RUNS, st.sampled_from([0.0, 0.3, 0.8, 1.0]))
def test_reference(shape, count, seed, run, share) -> None:
    models, base = tuned(shape, count, seed)
    if count == 1 and share < 1:
        expected = flat(base)  # One model does not vary.
    else:
        change = select_calculate_erase(deltas_of(models, base), share)
        expected = [start + value for start, value in zip(flat(base), change, strict=True)]
    found = merged(Sce(select_topk=share), MemorySite(models, base, run))
    assert close(found, expected, tolerance=1e-5)


@pytest.mark.parametrize("run", [1, 4, 100])
def test_limits_of_equal_variances_the_first_are_selected(run: int) -> None:
    base = np.zeros(8, np.float32)
    site = MemorySite([base + 1.0, base + 3.0], base, run)
    found = merged(Sce(select_topk=0.5), site)
    assert np.count_nonzero(found[:4]) == 4
    assert not found[4:].any()


def test_limits_passes_that_are_not_needed_are_not_taken() -> None:
    models, base = tuned((4, 4), 2, seed=0)
    for share, passes in ((1.0, 2), (0.5, 4), (0.0, 3)):
        site = MemorySite(models, base)
        merged(Sce(select_topk=share), site)
        assert site.num_passes == passes


def test_limits_nothing_changed_gives_the_base() -> None:
    base = normal(4, 4, seed=0)
    for share in (0.5, 1.0):
        assert np.array_equal(merged(Sce(select_topk=share), MemorySite([base] * 2, base)), base)


def test_meaning_an_idle_model_does_not_dilute_a_busy_one() -> None:
    base, change = normal(20, 20, seed=0), normal(20, 20, seed=1)
    models = [base + change, base + 0.01 * normal(20, 20, seed=2)]
    found = merged(Sce(), MemorySite(models, base))
    mean = merged(Linear(), MemorySite(models))
    assert np.abs(found - base - change).mean() < 0.1 * np.abs(mean - base - change).mean()
