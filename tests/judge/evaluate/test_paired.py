"""Paired answers against scipy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from treadle.judge.evaluate.paired import mcnemar

ANSWERS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60)


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
