"""The page pool: who holds what, copies, and its bytes."""

import numpy as np
import pytest

from treadle.core.errors import CapacityError, SettingsError
from treadle.runtime.pages import KeyValues, PagePool, num_pages_for, page_bytes


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8"])
def test_bytes_are_those_of_the_arrays(dtype):
    store = KeyValues((1, 3), 4, 6, 8, dtype)
    assert store.num_bytes == 6 * page_bytes((1, 3), 4, 8, dtype)
    assert [layer.keys.shape for layer in store.layers] == [(6, 1, 4, 8), (6, 3, 4, 8)]


def test_a_page_is_free_when_its_last_holder_lets_go():
    pool = PagePool(KeyValues((1,), 2, 3, 4))
    pages = pool.allocate(2)
    pool.retain(pages[:1])
    pool.release(pages)
    assert pool.num_free == 2
    pool.release(pages[:1])
    assert pool.num_free == 3
    with pytest.raises(CapacityError, match="4 pages are needed and 3 of 3 are free; raise"):
        pool.allocate(4)


def test_writing_to_a_shared_page_copies_it():
    pool = PagePool(KeyValues((1, 2), 2, 3, 4, "int8"))
    (page,) = pool.allocate(1)
    for layer in pool.store.layers:
        for array in layer.arrays():
            array[page] = 5
    assert pool.own(page) == page
    pool.retain([page])
    copy = pool.own(page)
    assert copy != page
    for layer in pool.store.layers:
        for array in layer.arrays():
            assert (array[copy] == 5).all()
    assert pool.holders[[page, copy]].tolist() == [1, 1]


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8"])
def test_what_is_read_can_be_written_elsewhere(dtype):
    one, other = (KeyValues((1, 2), 2, 5, 4, dtype) for _ in range(2))
    draw = np.random.default_rng(0)
    for layer in one.layers:
        for array in layer.arrays():
            array[:] = draw.integers(-9, 9, array.shape)
    content = one.read([3, 1])
    other.write([0, 4], content)
    for left, right in zip(content, other.read([0, 4]), strict=True):
        assert (left == right).all()


def test_pages_of_another_shape_are_refused():
    content = KeyValues((2,), 2, 5, 4).read([1])
    for store in (KeyValues((2,), 4, 5, 4), KeyValues((2,), 2, 5, 4, "fp16")):
        with pytest.raises(SettingsError, match=r"another model, page size or dtype.*give both"):
            store.write([1], content)


def test_settings_are_refused():
    with pytest.raises(SettingsError, match=r"No kv_dtype 'fp8'.*fp16"):
        KeyValues((1,), 2, 3, 4, "fp8")
    with pytest.raises(SettingsError, match="page_size=0, expected at least 1"):
        KeyValues((1,), 2, 3, 0)
    with pytest.raises(CapacityError, match="cache_bytes=10 holds no page; one takes 64"):
        num_pages_for(10, 64)
