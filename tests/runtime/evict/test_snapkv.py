"""What the newest queries attend to stays, with its neighbours."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.evict.seen import CHUNK, best, see
from runtime.kept import cached_of
from treadle.runtime.evict.methods.snapkv import SnapKV


def pooled(scores: np.ndarray, window: int, kernel: int) -> np.ndarray:
    found = np.zeros_like(scores)
    for head, row in enumerate(scores):
        for place in range(CHUNK - window):
            first = place - (kernel - 1) // 2
            own = [row[p] for p in range(first, first + kernel) if 0 <= p < CHUNK - window]
            found[head, place] = sum(own) / kernel
    return found


@pytest.mark.parametrize("kernel", [1, 4, 5])
def test_it_keeps_what_the_window_attends_to(retained, stepping, kernel):
    keep = {"method": "snapkv", "sinks": 2, "window": 6, "kernel": kernel}
    seen = see(retained, stepping, keep, 14)
    mass = seen.mass_of_rows(CHUNK - 6, CHUNK).astype(np.float64).sum((1, 2))
    assert seen.kept == best(pooled(mass, 6, kernel), 14, 2, 6)


def test_defensive_takes_the_largest_and_nothing_below_the_mean(retained, stepping):
    """Ties at the mean go to the newest."""
    keep = {"method": "snapkv", "sinks": 0, "window": 6, "kernel": 1, "aggregate": "defensive"}
    seen = see(retained, stepping, keep, 20)
    mass = seen.mass_of_rows(CHUNK - 6, CHUNK).max((1, 2))
    floor = mass[:, : CHUNK - 6].mean(axis=1, keepdims=True, dtype=np.float32)
    assert seen.kept == best(np.maximum(mass, floor), 20, 0, 6)


@given(kernel=st.integers(1, 9), count=st.integers(1, 12), seed=st.integers(0, 99))
def test_means_over_neighbours(kernel, count, seed):
    scores = np.random.default_rng(seed).random((2, count), np.float32)
    positions = np.tile(np.arange(count, dtype=np.int32), (2, 1))
    cached = cached_of(positions, (2,), count + 1, scores)
    found = SnapKV(window=1, kernel=kernel).score(cached)
    for head in range(2):
        for place in range(count):
            first = place - (kernel - 1) // 2
            own = [scores[head, p] for p in range(first, first + kernel) if 0 <= p < count]
            assert found[head, place] == pytest.approx(sum(own) / kernel, abs=1e-6)


def test_it_sees_more_of_what_follows_than_chance(retained, stepping):
    own = see(retained, stepping, {"method": "snapkv", "sinks": 0, "window": 8, "kernel": 1}, 14)
    other = see(
        retained, stepping, {"method": "random", "sinks": 0, "window": 8, "spread": 0.0}, 14
    )
    assert own.later_mass() > other.later_mass()
