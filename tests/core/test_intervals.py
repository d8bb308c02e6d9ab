"""Intervals against scipy."""

import numpy as np
import pytest
from scipy import stats

from treadle.core import intervals
from treadle.core.intervals import (
    bootstrap_mean,
    bootstrap_mean_of_sets,
    bootstrap_quantiles,
    bootstrap_seeds_and_rows,
    wilson,
)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_bootstrap_against_scipy(seed: int) -> None:
    values = np.random.default_rng(seed).gamma(2.0, size=80)
    low, high = bootstrap_mean(values.tolist(), seed)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=seed
    ).confidence_interval
    width = theirs.high - theirs.low
    assert low == pytest.approx(theirs.low, abs=0.05 * width)
    assert high == pytest.approx(theirs.high, abs=0.05 * width)


def test_sets_that_differ_in_level_do_not_widen_the_interval_of_their_mean() -> None:
    """Which sets there are is given: the error is that of the sets' own means, in quadrature."""
    random = np.random.default_rng(1)
    sets = [random.normal(level, 1.0, 200) for level in (0.0, 10.0, 100.0)]
    low, high = bootstrap_mean_of_sets([one.tolist() for one in sets], 0)
    middle = np.mean([one.mean() for one in sets])
    error = np.sqrt(sum(one.var() / len(one) for one in sets)) / len(sets)
    assert low == pytest.approx(middle - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(middle + 1.96 * error, abs=0.15 * error)


def test_a_small_set_counts_as_much_as_a_large_one() -> None:
    low, high = bootstrap_mean_of_sets([[1.0], [0.0] * 99], 0)
    assert (low, high) == (0.5, 0.5)


def test_the_bootstrap_depends_on_the_seed_alone() -> None:
    values = np.random.default_rng(0).normal(size=40).tolist()
    assert bootstrap_mean(values, 3) == bootstrap_mean(values, 3)
    assert bootstrap_mean(values, 3) != bootstrap_mean(values, 4)


def test_the_bootstrap_of_one_value_and_of_equal_values() -> None:
    assert bootstrap_mean([2.5], 0) == (2.5, 2.5)
    assert bootstrap_mean([2.5] * 9, 0) == (2.5, 2.5)


def test_the_bootstrap_covers_the_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        low, high = bootstrap_mean(generator.normal(1.0, size=50).tolist(), seed)
        hits += low <= 1.0 <= high
    assert 0.89 <= hits / 200 <= 0.985


def test_quantiles_against_scipys_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).gamma(2.0, size=300)
    found = bootstrap_quantiles(values.tolist(), [0.5, 0.9], 0)
    for level, (low, high) in zip((0.5, 0.9), found, strict=True):
        theirs = stats.bootstrap(
            (values,),
            lambda x, axis, level=level: np.quantile(x, level, axis=axis),
            n_resamples=5000,
            method="percentile",
            rng=1,
        ).confidence_interval
        width = theirs.high - theirs.low
        assert low == pytest.approx(theirs.low, abs=0.08 * width)
        assert high == pytest.approx(theirs.high, abs=0.08 * width)
        assert low <= np.quantile(values, level) <= high
    monkeypatch.setattr(intervals, "_MOST_PICKS", 700)  # a few rows at a time
    assert bootstrap_quantiles(values.tolist(), [0.5, 0.9], 0) == found


def test_quantiles_of_one_value() -> None:
    assert bootstrap_quantiles([2.5], [0.0, 0.99], 0) == [(2.5, 2.5)] * 2


@pytest.mark.parametrize(("right", "size"), [(0, 9), (4, 9), (9, 9), (70, 100)])
def test_wilson_against_scipy(right: int, size: int) -> None:
    theirs = stats.binomtest(right, size).proportion_ci(method="wilson")
    assert wilson([1.0] * right + [0.0] * (size - right)) == pytest.approx(tuple(theirs))


def test_seeds_and_rows_are_both_drawn_again() -> None:
    """The variance of a two-way bootstrap is that of the means of either axis, and their product's.

    For independent cells it is about the sum of var(seeds' means) / seeds, var(rows' means) / rows
    and the rest over both, from the definition.
    """
    draw = np.random.default_rng(0)
    seeds, rows = 12, 60
    table = draw.normal(size=(seeds, 1)) + draw.normal(size=(1, rows)) + draw.normal(size=(12, 60))
    low, high = bootstrap_seeds_and_rows(table, 0)
    middle = table.mean()
    of_seeds, of_rows = table.mean(1) - middle, table.mean(0) - middle
    rest = table - middle - of_seeds[:, None] - of_rows[None]
    variance = of_seeds.var() / seeds + of_rows.var() / rows + rest.var() / (seeds * rows)
    assert high - low == pytest.approx(2 * 1.96 * variance**0.5, rel=0.1)
    assert low < middle < high
    by_rows = bootstrap_mean((table.mean(0)).tolist(), 0)
    assert high - low > 1.5 * (by_rows.high - by_rows.low)  # rows alone are too sure


def test_a_table_of_one_seed_is_a_bootstrap_of_rows() -> None:
    table = np.random.default_rng(0).normal(size=(1, 80))
    both, rows = bootstrap_seeds_and_rows(table, 1), bootstrap_mean(table[0].tolist(), 1)
    assert both.low == pytest.approx(rows.low, abs=0.05)
    assert both.high == pytest.approx(rows.high, abs=0.05)
    assert bootstrap_seeds_and_rows(np.full((3, 4), 2.5), 0) == (2.5, 2.5)
    assert bootstrap_seeds_and_rows(table, 1) == both
