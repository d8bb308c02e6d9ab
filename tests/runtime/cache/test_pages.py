"""The page pool: who holds what, copies, and its bytes."""

import numpy as np
import pytest

from treadle.core.errors import CapacityError, SettingsError
from treadle.runtime.cache.pages import KeyValues, PagePool, num_pages_for, page_bytes
from treadle.runtime.cache.planes import PlanePool


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8", "int4"])
def test_bytes_are_those_of_the_arrays(dtype):
    store = KeyValues((1, 3), 4, 6, 8, dtype)
    assert store.num_bytes == 6 * page_bytes((1, 3), 4, 8, dtype)
    columns = 2 if dtype == "int4" else 4
    shapes = [(6, 1, columns, 8), (6, 3, columns, 8)]
    assert [layer.keys.shape for layer in store.layers] == shapes


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


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8", "int4"])
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


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8", "int4"])
@pytest.mark.parametrize(("layer", "head"), [(None, None), (1, None), (1, 2), (0, 0)])
def test_entries_move_with_all_that_belongs_to_them(dtype, layer, head):
    """Slot by slot in loops; a target may be the source of another."""
    store = KeyValues((1, 3), 2, 4, 4, dtype)
    draw = np.random.default_rng(0)
    for array in store.arena.arrays():
        array[:] = draw.integers(-9, 9, array.shape)
    before = [[array.copy() for array in own.arrays()] for own in store.layers]
    moves = {3: 9, 9: 0, 14: 3}
    store.move(list(moves), list(moves.values()), layer, head)
    for number, own in enumerate(store.layers):
        for old, array in zip(before[number], own.arrays(), strict=True):
            is_turned = array is own.keys
            wide, narrow = (np.moveaxis(a, -1, 2) if is_turned else a for a in (array, old))
            expected = narrow.copy()
            for source, target in moves.items():
                for one in range(store.kv_heads[number]):
                    if layer in (None, number) and head in (None, one):
                        into, out = (target // 4, one, target % 4), (source // 4, one, source % 4)
                        expected[into] = narrow[out]
            assert (wide == expected).all()


def test_a_layer_is_a_view_of_the_arena():
    store = KeyValues((2, 3), 2, 4, 4, "int8")
    for page in range(4):
        planes = store.planes_of(page)
        assert store.pages_of(planes).tolist() == [page] * 5
        store.arena.positions[planes] = 10 * page + np.arange(5)[:, None]
        assert store.layers[0].positions[page, :, 0].tolist() == [10 * page, 10 * page + 1]
        assert store.layers[1].positions[page, :, 3].tolist() == [10 * page + h for h in (2, 3, 4)]
    assert all(array.flags.c_contiguous for own in store.layers for array in own.arrays())


def test_broken_pages_become_whole_again():
    pool = PagePool(KeyValues((1, 2), 2, 3, 4))
    planes = PlanePool(pool)
    first, second = planes.allocate(2), planes.allocate(3)
    assert len({*first.tolist(), *second.tolist()}) == 5
    assert (pool.num_free, planes.num_free, len(planes.broken)) == (1, 1, 2)
    with pytest.raises(CapacityError, match="2 pages are needed and 1 of 3 are free"):
        planes.allocate(5)
    planes.release(first)
    planes.release(second[:1])
    planes.release(second[1:])
    assert (pool.num_free, planes.num_free, planes.broken) == (3, 0, set())
    with pytest.raises(AssertionError, match="a free plane"):
        planes.release(np.repeat(planes.allocate(1), 2))
