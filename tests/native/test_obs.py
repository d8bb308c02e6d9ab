"""The update inside one block: machine code, twin, and the constrained least squares it solves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from treadle import native
from treadle.core.errors import SettingsError
from treadle.native import twins


def problem(seed, rows, width, density=0.5, shared=0.0):
    """Weights, the upper Cholesky factor of an inverse Hessian, a mask, and the Hessian.

    `shared` is the strength of a common signal that correlates the inputs.
    """
    generator = np.random.default_rng(seed)
    inputs = generator.standard_normal((4 * width + 8, width)) * generator.uniform(0.3, 3, width)
    inputs += shared * generator.standard_normal((len(inputs), 1))
    hessian = inputs.T @ inputs / len(inputs) + 0.01 * np.eye(width)
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    weight = generator.standard_normal((rows, width), np.float32)
    keep = generator.random((rows, width)) < density
    return weight, np.ascontiguousarray(upper, np.float32), keep, hessian


def run(block, weight, *arguments, **options):
    """Run an in-place block function on copies and return what it made."""
    arguments = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
    weight = weight.copy()
    error = np.full_like(weight, np.nan)
    block(weight, *arguments, error, **options)
    return weight, error, arguments[-1]


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


SHAPES = st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 40))


@settings(max_examples=80, deadline=None)
@given(SHAPES, st.sampled_from([0.0, 0.1, 0.5, 0.95, 1.0]))
def test_obs_block_gives_the_bits_of_its_twin(shape, density):
    weight, upper, keep, _ = problem(*shape, density)
    assert_same(
        run(native.obs_block, weight, upper, keep), run(twins.obs_block, weight, upper, keep)
    )


@settings(max_examples=80, deadline=None)
@given(st.sampled_from([1, 2, 3, 4, 8, 12, 16]), st.data())
def test_obs_block_n_of_m_gives_the_bits_of_its_twin(m, data):
    seed, rows, groups = data.draw(SHAPES)
    n = data.draw(st.integers(0, m))
    weight, upper, keep, _ = problem(seed, rows, m * (1 + groups % 4))
    if data.draw(st.booleans()):  # heavy ties
        weight, upper = weight.round(0), np.triu(np.ones_like(upper))
    assert_same(
        run(native.obs_block_n_of_m, weight, upper, n, m, keep),
        run(twins.obs_block_n_of_m, weight, upper, n, m, keep),
    )


@pytest.mark.parametrize("width", [127, 128, 255, 256])
def test_wide_blocks(width):
    weight, upper, keep, _ = problem(1, 37, width)
    expected = run(twins.obs_block, weight, upper, keep)
    assert_same(run(native.obs_block, weight, upper, keep), expected)
    assert_same(run(native.obs_block, weight, upper, keep, num_threads=2), expected)


def test_threads_do_not_change_the_chosen_mask():
    weight, upper, keep, _ = problem(2, 43, 64)
    expected = run(native.obs_block_n_of_m, weight, upper, 2, 4, keep)
    for num_threads in (2, 3, 8):
        options = {"num_threads": num_threads}
        assert_same(run(native.obs_block_n_of_m, weight, upper, 2, 4, keep, **options), expected)


@pytest.mark.parametrize("seed", range(5))
def test_pruning_columns_in_order_solves_each_constrained_least_squares(seed):
    """One pruned weight a row: the result is the minimiser over the free columns to its right."""
    weight, upper, _, hessian = problem(seed, 8, 8)
    keep = ~np.eye(8, dtype=bool)
    updated, _, _ = run(native.obs_block, weight, upper, keep)
    for row in range(8):
        right = slice(row + 1, 8)
        change = np.zeros(8)
        change[row] = -weight[row, row]
        change[right] = -np.linalg.solve(hessian[right, right], hessian[right, row] * change[row])
        np.testing.assert_allclose(updated[row], weight[row] + change, atol=2e-5)


@pytest.mark.parametrize("seed", range(5))
def test_block_equals_sequential_elimination_in_float64(seed):
    """Dense formula with an arbitrary mask: re-solve the columns to the right after each column."""
    weight, upper, keep, hessian = problem(seed, 8, 8)
    expected = weight.astype(np.float64)
    for column in range(8):
        right = slice(column + 1, 8)
        removed = np.where(keep[:, column], 0, expected[:, column])
        if column < 7:
            share = np.linalg.solve(hessian[right, right], hessian[right, column])
            expected[:, right] += removed[:, None] * share
        expected[:, column] -= removed
    updated, _, _ = run(native.obs_block, weight, upper, keep)
    np.testing.assert_allclose(updated, expected, atol=2e-5)
    np.testing.assert_array_equal(updated == 0, ~keep)


def test_where_inputs_are_correlated_the_update_loses_far_less_than_zeroing():
    weight, upper, keep, hessian = problem(7, 64, 32, shared=3.0)
    updated, _, _ = run(native.obs_block, weight, upper, keep)

    def loss(pruned):
        change = (pruned - weight).astype(np.float64)
        return np.einsum("ri,ij,rj->", change, hessian, change)

    assert loss(updated) < 0.5 * loss(weight * keep)


def test_a_block_may_be_a_slice_of_longer_rows():
    weight, upper, keep, _ = problem(4, 13, 24)
    expected = run(native.obs_block, weight, upper, keep)
    matrix, mask = np.zeros((13, 41), np.float32), np.ones((13, 33), np.bool_)
    error = np.full((13, 27), -1, np.float32)
    matrix[:, 3:27], mask[:, 7:31] = weight, keep
    native.obs_block(matrix[:, 3:27], upper, mask[:, 7:31], error[:, 1:25])
    assert_same((matrix[:, 3:27], error[:, 1:25]), expected[:2])
    assert not matrix[:, [0, 1, 2, *range(27, 41)]].any()
    assert (error[:, [0, 25, 26]] == -1).all()


def test_every_other_row_of_an_array_works():
    weight, upper, keep, _ = problem(5, 10, 16)
    expected = run(native.obs_block_n_of_m, weight, upper, 4, 8, keep)
    spread, mask = np.zeros((20, 16), np.float32), np.zeros((10, 16), np.bool_)
    spread[::2] = weight
    error = np.zeros((20, 16), np.float32)
    native.obs_block_n_of_m(spread[::2], upper, 4, 8, mask, error[::2])
    assert_same((spread[::2], error[::2], mask), expected)
    assert not spread[1::2].any()


def test_dead_and_fully_kept_columns_have_no_error():
    weight, upper, keep, _ = problem(6, 9, 12)
    weight[:, 3], keep[:, 5] = 0, True
    _, error, _ = run(native.obs_block, weight, upper, np.ones_like(keep))
    assert not error.any()


def test_unfit_arguments_are_refused():
    weight, upper, keep, _ = problem(0, 4, 8)
    error = np.empty_like(weight)
    with pytest.raises(SettingsError, match="Found upper of strided float32"):
        native.obs_block(weight, upper.T, keep, error)
    with pytest.raises(SettingsError, match="Found keep of contiguous uint8"):
        native.obs_block(weight, upper, keep.view(np.uint8), error)
    with pytest.raises(SettingsError, match=r"Found error of contiguous float32 \(4, 7\)"):
        native.obs_block(weight, upper, keep, np.empty((4, 7), np.float32))
    with pytest.raises(SettingsError, match="Found weight of strided float32"):
        native.obs_block(np.asfortranarray(weight), upper, keep, error)
    with pytest.raises(SettingsError, match="pattern 2:3 for 8 columns"):
        native.obs_block_n_of_m(weight, upper, 2, 3, keep, error)
    wide = np.empty((4, 257), np.float32)
    with pytest.raises(SettingsError, match="block of 257 columns, expected at most 256"):
        native.obs_block(wide, upper, keep, error)
