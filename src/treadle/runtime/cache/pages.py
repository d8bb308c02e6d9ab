"""The paged cache of keys and values: its arrays, and who holds which page."""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.errors import CapacityError, SettingsError
from treadle.native.memory import zeros
from treadle.runtime.cache.forms import (
    KV_DTYPES,
    MIDDLE,
    KvDtype,
    columns_of,
    has_codes,
    num_pages_for,
    page_bytes,
    require_dtype,
    require_page_size,
)
from treadle.runtime.cache.units import UnitForm, pack_keys, pack_values

__all__ = [
    "KV_DTYPES",
    "MIDDLE",
    "Content",
    "KeyValues",
    "KvDtype",
    "LayerKeyValues",
    "PagePool",
    "columns_of",
    "has_codes",
    "num_pages_for",
    "page_bytes",
]

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]
Content = list[npt.NDArray[np.generic]]
"""A copy of pages or planes: every array, cut to them."""


class LayerKeyValues(NamedTuple):
    """One layer's part of the pool; every array is C-contiguous.

    int8 stores x as round(x / scale) with scale = max |x| / 127 over the head's dim, one scale for
    each key and each value vector (0 where the vector is 0). int4 stores round(x / scale + 7.5)
    with scale = max |x| / 7.5 of each half of the vector, two codes in a byte: dimension c, and
    above it c + dim / 2. Both scales, in float16, share a float of 32 bits.
    """

    keys: npt.NDArray[np.generic]
    """[pages, kv_heads, dim (int4: dim / 2), page_size]: a vector of the processor takes one
    dimension of many keys."""
    values: npt.NDArray[np.generic]
    """[pages, kv_heads, page_size, dim (int4: dim / 2)]"""
    positions: Ints
    """[pages, kv_heads, page_size] the token's position in its text."""
    key_scales: Floats | None
    """[pages, kv_heads, page_size]; None unless numbers are codes."""
    value_scales: Floats | None
    scores: Floats | None = None
    """[planes, page_size] what was noted of entries, of the arena alone: memory is taken where a
    text's heads keep their own entries."""

    def arrays(self) -> list[npt.NDArray[np.generic]]:
        """Return all arrays; the first axis of each is the page."""
        return [array for array in self if array is not None]


class KeyValues:
    """The keys and values of every layer, in main memory, as numpy arrays.

    A page has a *plane* of `page_size` slots for each KV head of each layer. All planes lie in one
    `arena`, layer after layer, and a layer's arrays are views of it: so a page number means the
    same place in every layer, and where heads keep different tokens a head's own table may name
    any plane of the arena, whichever layer it stands in.
    """

    def __init__(
        self,
        kv_heads: Sequence[int],
        head_dim: int,
        num_pages: int,
        page_size: int = 16,
        dtype: KvDtype = "fp32",
    ) -> None:
        page_size = require_page_size(page_size)
        self.num_pages, self.page_size, self.dtype = num_pages, page_size, require_dtype(dtype)
        self.head_dim, self.kv_heads = head_dim, tuple(kv_heads)
        self._first_planes = num_pages * np.asarray([0, *accumulate(kv_heads)], np.int64)
        self._heads = np.repeat(np.asarray(self.kv_heads, np.int64), self.kv_heads)
        own = [np.arange(heads) for heads in self.kv_heads]
        firsts = np.repeat(self._first_planes[:-1], self.kv_heads)
        self._planes = np.concatenate([firsts[:0], *own]) + firsts
        self.arena = self._make_arena(num_pages * self.num_heads)
        """The arrays of all planes; [pages, kv_heads] of `LayerKeyValues` is one axis, [planes]."""
        self.layers = [self._layer(layer) for layer in range(len(self.kv_heads))]
        self.key_factors: list[Floats] | None = None
        """[kv_heads, dim] of each layer: keys of 4 bits are divided by them before they are stored,
        because a few dimensions of a head are much larger than others. None: they are not."""

    @property
    def num_heads(self) -> int:
        """The KV heads of all layers, and so the planes of a page."""
        return sum(self.kv_heads)

    def _make_arena(self, num_planes: int) -> LayerKeyValues:
        size, stored, has_scales = self.page_size, KV_DTYPES[self.dtype], has_codes(self.dtype)
        columns = columns_of(self.head_dim, self.dtype)
        return LayerKeyValues(
            self._zeros((num_planes, columns, size), stored),
            self._zeros((num_planes, size, columns), stored),
            self._zeros((num_planes, size), np.int32),
            self._zeros((num_planes, size), np.float32) if has_scales else None,
            self._zeros((num_planes, size), np.float32) if has_scales else None,
            self._zeros((num_planes, size), np.float32),
        )

    def _layer(self, layer: int) -> LayerKeyValues:
        first, last = self._first_planes[layer : layer + 2]
        views: list[Any] = [  # Any: arrays, or tensors
            None
            if array is None
            else array[first:last].reshape(self.num_pages, self.kv_heads[layer], *array.shape[1:])
            for array in self.arena[:-1]
        ]
        return LayerKeyValues(*views)

    def _zeros(self, shape: tuple[int, ...], dtype: type[np.generic]) -> Any:  # Any: of any dtype
        return zeros(shape, dtype)

    def _index(self, numbers: npt.ArrayLike) -> Any:  # Any: what indexes this kind of array
        return np.asarray(numbers, np.int64)

    def _fetched(self, part: Any) -> Any:  # Any: a part of an array of this kind
        """Return it in main memory."""
        return part

    def _sent(self, part: Any) -> Any:  # Any: an array of numpy, and one of this kind
        """Return it where the arrays are."""
        return part

    @property
    def num_bytes(self) -> int:
        """The bytes of all arrays but the scores of entries."""
        return sum(array.nbytes for array in self.arena[:-1] if array is not None)

    @property
    def token_bytes(self) -> int:
        """The bytes of a token's keys and values in all layers, with their scales."""
        keys, values, _, *scales, _ = self.arena
        arrays = [array for array in (keys, values, *scales) if array is not None]
        return sum(array.nbytes for array in arrays) // (self.num_pages * self.page_size)

    @property
    def plane_bytes(self) -> int:
        """The bytes of a plane, with positions, scales and the scores of entries."""
        return sum(array.nbytes for array in self.arena.arrays()) // len(self.arena.positions)

    def copy_page(self, source: int, target: int) -> None:
        """Copy what one page holds into another, in every layer."""
        for layer in self.layers:
            for array in layer.arrays():
                array[target] = array[source]

    def planes_of(self, page: int) -> npt.NDArray[np.int64]:
        """Return the planes of a page: its heads of the first layer, then of the next ones."""
        return self._planes + page * self._heads

    def pages_of(self, planes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the page of each plane."""
        layer = np.searchsorted(self._first_planes, planes, side="right") - 1
        heads = np.asarray(self.kv_heads, np.int64)[layer]
        return np.asarray((planes - self._first_planes[layer]) // heads, np.int64)

    def move(
        self,
        sources: npt.ArrayLike,
        targets: npt.ArrayLike,
        layer: int | None = None,
        head: int | None = None,
    ) -> None:
        """Copy entries from slots to others, with their scales and positions.

        All are read before one is written, so that a target may be a source, too.

        Args:
            sources: [entries] slots: page * page_size + offset.
            targets: [entries] slots, each of them once.
            layer: Unless given, all of them.
            head: Of the layer; unless given, all of them.
        """
        first = 0 if layer is None else sum(self.kv_heads[:layer])
        last = self.num_heads if layer is None else first + self.kv_heads[layer]
        chosen = slice(first, last) if head is None else slice(first + head, first + head + 1)

        def in_arena(slots: npt.ArrayLike) -> npt.NDArray[np.int64]:
            own = np.asarray(slots, np.int64)[:, None]
            planes = self._planes[chosen] + own // self.page_size * self._heads[chosen]
            return (planes * self.page_size + own % self.page_size).ravel()

        self.move_in_arena(in_arena(sources), in_arena(targets))

    def move_in_arena(self, sources: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]) -> None:
        """Do the same where slots are those of the arena: plane * page_size + offset."""
        from_planes, from_offsets = map(self._index, np.divmod(sources, self.page_size))
        planes, offsets = map(self._index, np.divmod(targets, self.page_size))
        keys = self.arena.keys
        keys[planes, :, offsets] = keys[from_planes, :, from_offsets]
        for array in self.arena.arrays()[1:]:
            array[planes, offsets] = array[from_planes, from_offsets]

    def positions_of(self, planes: npt.NDArray[np.int64]) -> Ints:
        """Return the positions [..., page_size] that planes [...] hold."""
        found: Ints = self._fetched(self.arena.positions[self._index(planes)])
        return found

    def scores_of(self, planes: npt.NDArray[np.int64]) -> Floats:
        """Return what was noted of the entries [..., page_size] that planes [...] hold."""
        found: Floats = self._fetched(self.arena.scores[self._index(planes)])  # type: ignore[index]
        return found

    def numbers_of(self, planes: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Return keys and values [heads, pages * page_size, dim] of planes [heads, pages]."""
        chosen, arena = self._index(planes), self.arena
        keys = self._opened(arena.keys[chosen], arena.key_scales, chosen, is_turned=True)
        values = self._opened(arena.values[chosen], arena.value_scales, chosen)
        shape = (len(planes), -1, self.head_dim)
        return keys.reshape(shape), values.reshape(shape)

    def _opened(self, part: Any, scales: Any, chosen: Any, is_turned: bool = False) -> Floats:
        # Any: arrays of this kind, and what indexes them
        """Return numbers [..., page_size, dim]; those that are turned come the other way round."""
        stored = self._fetched(part)
        stored = stored.swapaxes(-1, -2) if is_turned else stored
        if scales is None:
            return np.asarray(stored, np.float32)
        own = self._fetched(scales[chosen])
        if self.dtype == "int8":
            return np.asarray(stored * own[..., None], np.float32)
        low, high = np.moveaxis(own.view(np.float16).reshape(*own.shape, 2), -1, 0)
        halves = ((stored & 15, low), (stored >> 4, high))
        parts = [(half - np.float32(MIDDLE)) * scale[..., None] for half, scale in halves]
        return np.concatenate(parts, axis=-1, dtype=np.float32)

    def write_unit(
        self, planes: npt.NDArray[np.int64], keys: Floats, values: Floats, form: UnitForm
    ) -> None:
        """Pack keys and values [heads, 256, dim] into planes [heads, planes of a unit]."""
        chosen = self._index(planes.ravel())
        packed = (
            (self.arena.keys, pack_keys(keys, form, self._array_bytes)),
            (self.arena.values, pack_values(values, form, self._array_bytes)),
        )
        for array, own in packed:
            stored = own.view(KV_DTYPES[self.dtype]).reshape(-1, *array.shape[1:])
            array[chosen] = self._sent(stored)

    @property
    def _array_bytes(self) -> int:
        """The bytes that a plane has for keys, and for values."""
        columns = columns_of(self.head_dim, self.dtype)
        return self.page_size * columns * np.dtype(KV_DTYPES[self.dtype]).itemsize

    def write_scores(self, planes: npt.NDArray[np.int64], score: float) -> None:
        """Let all entries of `planes` have one score."""
        self.arena.scores[self._index(planes)] = score  # type: ignore[index]

    def read(self, pages: Sequence[int]) -> Content:
        """Return a copy of what `pages` hold: every array of every layer, cut to [pages, ...]."""
        chosen = self._index(pages)
        return [self._fetched(array[chosen]) for layer in self.layers for array in layer.arrays()]

    def write(self, pages: Sequence[int], content: Content) -> None:
        """Put what `read` returned into `pages`.

        Raises:
            SettingsError: It was read from a pool of another shape.
        """
        arrays = [array for layer in self.layers for array in layer.arrays()]
        self._write(arrays, self._index(pages), content)

    def read_planes(self, planes: npt.NDArray[np.int64]) -> Content:
        """Return a copy of what `planes` hold: every array of the arena, cut to [planes, ...]."""
        chosen = self._index(planes)
        return [self._fetched(array[chosen]) for array in self.arena.arrays()]

    def write_planes(self, planes: npt.NDArray[np.int64], content: Content) -> None:
        """Put what `read_planes` returned into `planes`.

        Raises:
            SettingsError: It was read from a pool of another shape.
        """
        self._write(self.arena.arrays(), self._index(planes), content)

    def _write(self, arrays: list[Any], chosen: Any, content: Content) -> None:
        # Any: arrays of this kind, and what indexes them
        shapes = [(len(chosen), *array.shape[1:], array.itemsize) for array in arrays]
        if shapes != [(*part.shape, part.itemsize) for part in content]:
            raise SettingsError(
                f"The pages come from a cache of another model, page size or dtype than this one "
                f"({self.dtype}, {self.page_size} tokens a page); give both engines the same "
                f"model, page_size and kv_dtype."
            )
        for array, part in zip(arrays, content, strict=True):
            array[chosen] = self._sent(part)


class PagePool:
    """Counts the holders of each page; a page without a holder is free."""

    def __init__(self, store: KeyValues) -> None:
        self.store = store
        self.num_pages, self.page_size = store.num_pages, store.page_size
        self.holders = np.zeros(self.num_pages, np.int32)
        """[pages] how many requests and tree nodes hold each page."""
        self.most_held = 0
        """Pages that were held at once, at most."""
        self._free = list(range(self.num_pages - 1, -1, -1))

    @property
    def num_free(self) -> int:
        """The number of pages that nobody holds."""
        return len(self._free)

    def allocate(self, count: int) -> list[int]:
        """Return `count` free pages, each with one holder.

        Raises:
            CapacityError: Fewer are free.
        """
        if count > len(self._free):
            raise CapacityError(
                f"{count} pages are needed and {len(self._free)} of {self.num_pages} are free; "
                f"raise cache_bytes."
            )
        pages = [self._free.pop() for _ in range(count)]
        self.holders[pages] = 1
        self.most_held = max(self.most_held, self.num_pages - len(self._free))
        return pages

    def retain(self, pages: Iterable[int]) -> None:
        """Count one more holder of each of `pages`."""
        for page in pages:
            assert self.holders[page] > 0, "a free page cannot be shared"
            self.holders[page] += 1

    def release(self, pages: Iterable[int]) -> None:
        """Count one holder less of each of `pages`; without a holder a page becomes free."""
        for page in pages:
            assert self.holders[page] > 0, "a free page cannot be released"
            self.holders[page] -= 1
            if self.holders[page] == 0:
                self._free.append(page)

    def own(self, page: int) -> int:
        """Return a page with the content of `page` and no other holder: itself, or a copy.

        Raises:
            CapacityError: A copy is needed and no page is free.
        """
        if self.holders[page] == 1:
            return page
        (copy,) = self.allocate(1)
        self.store.copy_page(page, copy)
        self.release([page])
        return copy
