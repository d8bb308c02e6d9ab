"""Keeping by score against plain sorts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from treadle.core.errors import SettingsError
from treadle.core.keep import keep_n_of_m, keep_rows, num_pruned

TIES = st.sampled_from([-2.0, -0.0, 0.0, 1.0, 1.0, np.inf, -np.inf])
SIZES = st.tuples(st.integers(1, 5), st.integers(1, 9))


@given(SIZES.flatmap(lambda size: arrays(np.float32, size, elements=TIES)), st.integers(0, 9))
def test_rows(score: np.ndarray, num_prune: int) -> None:
    num_prune = min(num_prune, score.shape[1])
    found = keep_rows(score, num_prune)
    for row, kept in zip(score.tolist(), found.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda place: (row[place], place))
        assert [place for place, stays in enumerate(kept) if not stays] == sorted(order[:num_prune])


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 6), st.data())
def test_n_of_m(rows: int, groups: int, m: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(0, m))
    score = data.draw(arrays(np.float32, (rows, groups * m), elements=TIES))
    found = keep_n_of_m(score, n, m)
    assert found.shape == score.shape
    for group, kept in zip(score.reshape(-1, m).tolist(), found.reshape(-1, m), strict=True):
        order = sorted(range(m), key=lambda place: (group[place], place))
        assert set(np.flatnonzero(~kept)) == set(order[: m - n])


@given(st.integers(0, 10_000), st.integers(0, 1000))
def test_the_count_is_the_exact_floor(size: int, thousandths: int) -> None:
    assert num_pruned(size, thousandths / 1000) == size * thousandths // 1000


def test_limits() -> None:
    assert num_pruned(30, 0.1) == 3
    assert num_pruned(10, 0.7) == 7
    assert (num_pruned(0, 0.5), num_pruned(7, 0.0), num_pruned(7, 1.0)) == (0, 0, 7)


@pytest.mark.parametrize("sparsity", [-1e-3, 1.001, 50, float("nan")])
def test_outside_0_to_1(sparsity: float) -> None:
    with pytest.raises(SettingsError, match=r"is outside 0\.\.1; give the fraction of weights"):
        num_pruned(10, sparsity)
