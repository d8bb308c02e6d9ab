"""Masks: machine code, twin and a sorted reference agree bit by bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from treadle import native
from treadle.core.errors import SettingsError
from treadle.native import twins

TIED = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, float("inf"), float("-inf"), 1e-45])
ANY = st.floats(allow_nan=False, width=32)


@st.composite
def scores(draw, multiple_of=1, max_rows=20, max_groups=40):
    rows = draw(st.integers(1, max_rows))
    cols = multiple_of * draw(st.integers(1, max(1, max_groups // multiple_of)))
    return draw(
        arrays.arrays(np.float32, (rows, cols), elements=draw(st.sampled_from([TIED, ANY])))
    )


def reference(row, num_prune):
    """Sort (value, index) pairs; -0.0 equals 0.0 in Python too."""
    order = sorted(range(len(row)), key=lambda i: (float(row[i]), i))
    keep = np.ones(len(row), bool)
    keep[order[:num_prune]] = False
    return keep


@settings(max_examples=150, deadline=None)
@given(scores(), st.data())
def test_keep_rows_equals_twin_and_reference(score, data):
    num_prune = data.draw(st.integers(0, score.shape[1]))
    expected = np.stack([reference(row, num_prune) for row in score])
    np.testing.assert_array_equal(native.keep_rows(score, num_prune), expected)
    np.testing.assert_array_equal(twins.keep_rows(score, num_prune), expected)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([1, 2, 3, 4, 8, 16, 31, 32, 33, 40]), st.data())
def test_keep_n_of_m_equals_twin_and_reference(m, data):
    score = data.draw(scores(multiple_of=m))
    n = data.draw(st.integers(0, m))
    groups = score.reshape(-1, m)
    expected = np.stack([reference(row, m - n) for row in groups]).reshape(score.shape)
    np.testing.assert_array_equal(native.keep_n_of_m(score, n, m), expected)
    np.testing.assert_array_equal(twins.keep_n_of_m(score, n, m), expected)


@settings(max_examples=100, deadline=None)
@given(scores(), st.data())
def test_smallest_in_tensor_prunes_exactly_that_many_in_flat_order(score, data):
    num_prune = data.draw(st.integers(0, score.size))
    expected = reference(score.ravel(), num_prune).reshape(score.shape)
    np.testing.assert_array_equal(native.smallest_in_tensor(score, num_prune), expected)


@pytest.mark.parametrize("num_prune", [0, 1, 100_000, 1 << 20, (1 << 20) + 7])
def test_more_scores_than_one_counting_chunk(num_prune):
    score = np.random.default_rng(0).integers(-50, 50, (1, (1 << 20) + 7)).astype(np.float32)
    keep = native.keep_rows(score, num_prune)
    np.testing.assert_array_equal(keep, twins.keep_rows(score, num_prune))
    assert keep.size - keep.sum() == num_prune


@pytest.mark.parametrize("num_threads", [2, 3, 16])
@pytest.mark.parametrize("rows", [1, 7, 8, 9, 33])
def test_threads_do_not_change_the_mask(rows, num_threads):
    score = np.random.default_rng(rows).standard_normal((rows, 48), np.float32).round(1)
    for run in (
        lambda threads: native.keep_rows(score, 20, num_threads=threads),
        lambda threads: native.keep_n_of_m(score, 2, 4, num_threads=threads),
        lambda threads: native.keep_n_of_m(score, 7, 48, num_threads=threads),
    ):
        np.testing.assert_array_equal(run(1), run(num_threads))


def test_empty_scores_give_empty_masks():
    assert native.keep_rows(np.empty((0, 4), np.float32), 2).shape == (0, 4)
    assert native.keep_n_of_m(np.empty((3, 0), np.float32), 2, 4).shape == (3, 0)
    assert native.smallest_in_tensor(np.empty((2, 0), np.float32), 0).shape == (2, 0)


def test_switched_off_kernels_give_the_same_masks_without_warning(monkeypatch):
    score = np.random.default_rng(3).standard_normal((5, 24), np.float32)
    compiled = native.keep_rows(score, 9), native.keep_n_of_m(score, 1, 4)
    monkeypatch.setenv("TREADLE_NATIVE", "0")
    assert native.status().active == "python"
    np.testing.assert_array_equal(native.keep_rows(score, 9), compiled[0])
    np.testing.assert_array_equal(native.keep_n_of_m(score, 1, 4), compiled[1])


@pytest.mark.parametrize(
    ("score", "complaint"),
    [
        (np.zeros((2, 4)), r"contiguous float64 \(2, 4\).*ascontiguousarray"),
        (np.zeros((4, 4), np.float32).T[:, :2], "strided float32"),
        (np.zeros(4, np.float32), r"float32 \(4,\)"),
    ],
)
def test_unfit_scores_are_refused(score, complaint):
    with pytest.raises(SettingsError, match=complaint):
        native.keep_rows(score, 1)


def test_settings_out_of_range_are_refused():
    score = np.zeros((2, 6), np.float32)
    with pytest.raises(
        SettingsError, match=r"num_prune=7 for rows of 6 scores.*lower the sparsity"
    ):
        native.keep_rows(score, 7)
    for n, m in ((2, 4), (4, 3), (-1, 3), (0, 0)):
        with pytest.raises(SettingsError, match=f"pattern {n}:{m} for 6 columns"):
            native.keep_n_of_m(score, n, m)
    with pytest.raises(SettingsError, match="num_threads=0"):
        native.keep_rows(score, 1, num_threads=0)


def test_array_of_shares_memory_and_refuses_other_types():
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.zeros(2, 3))
    native.array_of(weight)[0, 0] = 5
    assert weight[0, 0] == 5
    with pytest.raises(SettingsError, match=r"torch.bfloat16 on cpu.*\.to\('cpu', torch.float32\)"):
        native.array_of(weight.to(torch.bfloat16))
