"""Paired statistics against scipy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from treadle.judge.evaluate.paired import bootstrap_mean, mcnemar

ANSWERS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60)


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


@given(ANSWERS)
def test_mcnemar_against_scipys_binomial_test(pairs: list[tuple[int, int]]) -> None:
    first, second = (list(map(float, side)) for side in zip(*pairs, strict=True))
    wins = sum(a > b for a, b in pairs)
    discordant = wins + sum(b > a for a, b in pairs)
    expected = stats.binomtest(wins, discordant, 0.5).pvalue if discordant else 1.0
    assert mcnemar(first, second) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(second, first) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_very_many_pairs_does_not_overflow() -> None:
    first, second = [1.0] * 2500 + [0.0] * 2500, [0.0] * 2500 + [1.0] * 2500
    assert mcnemar(first, second) == 1.0
    assert 0.0 <= mcnemar([1.0] * 5000, [0.0] * 5000) < 1e-300


def test_mcnemar_needs_pairs() -> None:
    with pytest.raises(ValueError, match="zip"):
        mcnemar([1.0], [1.0, 0.0])
