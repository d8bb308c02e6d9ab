"""Arrays of an arena lie side by side, aligned, and do not touch each other."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from treadle.runtime.linear.arena import Arena


@given(st.lists(st.tuples(st.integers(1, 300), st.sampled_from([1, 2, 4])), max_size=20))
def test_arrays_keep_what_was_written(sizes):
    arena, arrays = Arena(), []
    for number, (size, width) in enumerate(sizes):
        array = arena.take((size, 3), f"u{width}")
        assert array.shape == (size, 3)
        assert not array.any()
        assert array.ctypes.data % 64 == 0
        array[...] = number
        arrays.append(array)
    for number, array in enumerate(arrays):
        assert (array == number).all()


def test_one_follows_the_other():
    arena = Arena()
    first, second = arena.take((16,), np.float32), arena.take((16,), np.float32)
    assert second.ctypes.data == first.ctypes.data + first.nbytes


def test_what_is_larger_than_a_chunk_gets_its_own():
    arena = Arena()
    large = arena.take((65 << 20,), np.uint8)
    large[-1] = 7
    small = arena.take((4,), np.uint8)
    small[...] = 1
    assert large[-1] == 7
    assert not large[:-1:1000].any()


def test_arrays_outlive_their_arena():
    arena = Arena()
    array = arena.take((1000,), np.int16)
    array[...] = 5
    del arena
    assert (array == 5).all()
