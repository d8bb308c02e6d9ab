"""Codes in words of 32 bits, as the reader takes them apart."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from coded_models import packed
from treadle.model.grid import Grid, unpack
from treadle.model.packing import (
    pack_bits,
    pack_grid,
    packed_names,
    planned_matrix,
    unpack_grid,
)


@given(st.integers(1, 5), st.integers(1, 20), st.sampled_from([4, 8]), st.integers(0, 99))
def test_codes_are_packed_as_the_loops_say_and_come_back(rows, columns, num_bits, seed):
    codes = np.random.default_rng(seed).integers(0, 2**num_bits, (rows, columns), np.uint8)
    found = pack_bits(codes, num_bits)
    assert np.array_equal(found, packed(codes, num_bits))
    assert np.array_equal(unpack(found, num_bits)[:, :columns], codes)


@given(st.integers(1, 9), st.sampled_from([4, 8]), st.booleans())
def test_what_is_planned_is_what_is_packed(rows, num_bits, is_symmetric):
    columns, num_groups = 12, 3
    draw = np.random.default_rng(rows)
    zeros = draw.integers(0, 2**num_bits, (rows, num_groups), np.uint8)
    grid = Grid(
        draw.integers(0, 2**num_bits, (rows, columns), np.uint8),
        np.full_like(zeros, 2 ** (num_bits - 1)) if is_symmetric else zeros,
        np.ones((rows, num_groups), np.float32),
        np.arange(columns) // 4,
        num_bits,
    )
    made = pack_grid("x", grid, is_symmetric)
    planned = planned_matrix("x", (rows, columns), num_bits, num_groups, is_symmetric, "F32")
    assert [entry.name for entry in planned] == list(made) == packed_names("x", is_symmetric)
    assert [entry.shape for entry in planned] == [values.shape for values in made.values()]
    again = unpack_grid(list(made.values()), num_bits)
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(again, grid, strict=True))
