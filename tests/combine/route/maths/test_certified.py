"""Claims from samples: against naive sums, at the limits, and by drawing samples."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle.combine.route.maths.certified import certified, chance


def naive(mean: float, count: int, bound: float) -> float:
    """The Hoeffding-Bentkus p-value as it is written, hit by hit."""
    kl = 0.0
    if mean > 0:
        kl += mean * math.log(mean / bound)
    if mean < 1:
        kl += (1 - mean) * math.log((1 - mean) / (1 - bound))
    tail = 0.0
    hits = 0
    while hits <= math.ceil(count * mean - 1e-9):
        tail += math.comb(count, hits) * bound**hits * (1 - bound) ** (count - hits)
        hits += 1
    return min(1.0, math.exp(-count * kl), math.e * tail)


@given(st.integers(1, 60), st.floats(0.01, 0.99), st.floats(0, 1))
@settings(deadline=None)
def test_the_chance_is_the_papers(count, bound, share):
    mean = share * bound * 0.999
    assert chance(mean, count, bound) == pytest.approx(naive(mean, count, bound), rel=1e-6)


def test_the_limits():
    assert chance(0.2, 100, 1.0) == 0.0
    assert chance(0.0, 100, 0.0) == 1.0
    assert chance(0.3, 100, 0.2) == chance(0.2, 100, 0.2) == 1.0
    assert chance(0.0, 0, 0.5) == 1.0
    assert chance(0.0, 100, 0.05) == pytest.approx(0.95**100)
    assert chance(0.01, 4000, 0.05) < 1e-30


def test_claims_end_at_the_first_that_stands():
    count, bound, level = 200, 0.1, 0.05
    means = [0.0, 0.01, 0.03, 0.2, 0.0]
    assert certified(means, count, bound, level) == 3
    assert certified([], count, bound, level) == 0
    assert certified([0.09], count, bound, level) == 0


def test_a_false_claim_is_as_rare_as_it_says():
    """The expectation is just above the bound, so every claim is false."""
    drawn = np.random.default_rng(0)
    bound, level, count = 0.1, 0.1, 150
    samples = drawn.random((3000, count)) < bound + 1e-9
    false = np.mean([chance(float(one.mean()), count, bound) <= level for one in samples])
    assert false <= level
    graded = drawn.beta(0.4, 3.6, (3000, count))  # of mean 0.1
    false = np.mean([chance(float(one.mean()), count, bound) <= level for one in graded])
    assert false <= level


def test_a_true_claim_is_mostly_made():
    drawn = np.random.default_rng(1)
    samples = drawn.random((500, 400)) < 0.03
    made = np.mean([chance(float(one.mean()), 400, 0.08) <= 0.05 for one in samples])
    assert made > 0.8
