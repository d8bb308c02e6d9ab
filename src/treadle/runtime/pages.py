"""The paged cache of keys and values: its arrays, and who holds which page."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.errors import CapacityError, SettingsError
from treadle.core.registry import near
from treadle.runtime.typed import text, whole

__all__ = [
    "KV_DTYPES",
    "KeyValues",
    "KvDtype",
    "LayerKeyValues",
    "PagePool",
    "num_pages_for",
    "page_bytes",
]

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

KvDtype = Literal["fp32", "fp16", "int8"]
KV_DTYPES: dict[str, type[np.generic]] = {
    "fp32": np.float32,
    "fp16": np.float16,
    "int8": np.int8,
}


class LayerKeyValues(NamedTuple):
    """One layer's part of the pool; every array is C-contiguous.

    int8 stores x as round(x / scale) with scale = max |x| / 127 over the head's dim, one scale for
    each key and each value vector (0 where the vector is 0).
    """

    keys: npt.NDArray[np.generic]
    """[pages, kv_heads, dim, page_size] in float32, float16 or int8: a vector of the processor
    takes one dimension of many keys."""
    values: npt.NDArray[np.generic]
    """[pages, kv_heads, page_size, dim]"""
    positions: Ints
    """[pages, kv_heads, page_size] the token's position in its text."""
    key_scales: Floats | None
    """[pages, kv_heads, page_size]; None unless int8."""
    value_scales: Floats | None

    def arrays(self) -> list[npt.NDArray[np.generic]]:
        """Return all arrays; the first axis of each is the page."""
        return [array for array in self if array is not None]


class KeyValues:
    """The keys and values of every layer, in main memory, as numpy arrays.

    A page number means the same place in every layer. Where heads keep different tokens, the plane
    [layer, page, kv_head] is what a head's own table names.
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
        self.head_dim = head_dim
        self.layers = [self._layer(heads) for heads in kv_heads]

    def _layer(self, heads: int) -> LayerKeyValues:
        plane = (self.num_pages, heads, self.page_size)
        stored = KV_DTYPES[self.dtype]
        has_scales = self.dtype == "int8"
        return LayerKeyValues(
            np.zeros((self.num_pages, heads, self.head_dim, self.page_size), stored),
            np.zeros((*plane, self.head_dim), stored),
            np.zeros(plane, np.int32),
            np.zeros(plane, np.float32) if has_scales else None,
            np.zeros(plane, np.float32) if has_scales else None,
        )

    @property
    def num_bytes(self) -> int:
        """The bytes of all arrays."""
        return sum(array.nbytes for layer in self.layers for array in layer.arrays())

    def copy_page(self, source: int, target: int) -> None:
        """Copy what one page holds into another, in every layer."""
        for layer in self.layers:
            for array in layer.arrays():
                array[target] = array[source]

    def read(self, pages: Sequence[int]) -> list[npt.NDArray[np.generic]]:
        """Return a copy of what `pages` hold: every array of every layer, cut to [pages, ...]."""
        chosen = np.asarray(pages, np.int64)
        return [array[chosen] for layer in self.layers for array in layer.arrays()]

    def write(self, pages: Sequence[int], content: Sequence[npt.NDArray[np.generic]]) -> None:
        """Put what `read` returned into `pages`.

        Raises:
            SettingsError: It was read from a pool of another shape.
        """
        self._require_same(pages, content)
        chosen = np.asarray(pages, np.int64)
        arrays = [array for layer in self.layers for array in layer.arrays()]
        for array, part in zip(arrays, content, strict=True):
            array[chosen] = part

    def _require_same(
        self, pages: Sequence[int], content: Sequence[npt.NDArray[np.generic]]
    ) -> None:
        arrays = [array for layer in self.layers for array in layer.arrays()]
        shapes = [(len(pages), *array.shape[1:], array.itemsize) for array in arrays]
        if shapes != [(*part.shape, part.itemsize) for part in content]:
            raise SettingsError(
                f"The pages come from a cache of another model, page size or dtype than this one "
                f"({self.dtype}, {self.page_size} tokens a page); give both engines the same "
                f"model, page_size and kv_dtype."
            )


def require_page_size(page_size: int) -> int:
    """Return `page_size` if pages can have it.

    Raises:
        SettingsError: They cannot.
    """
    return whole("page_size", page_size, 1)


def require_dtype(dtype: str) -> KvDtype:
    """Return `dtype` if pages can be stored in it.

    Raises:
        SettingsError: They cannot.
    """
    if text("kv_dtype", dtype) not in KV_DTYPES:
        raise SettingsError(f"No kv_dtype '{dtype}'. {near(dtype, KV_DTYPES)}")
    return dtype  # type: ignore[return-value]


def page_bytes(kv_heads: Sequence[int], head_dim: int, page_size: int, dtype: KvDtype) -> int:
    """Return the bytes of one page over all layers, with positions and scales."""
    width = np.dtype(KV_DTYPES[require_dtype(dtype)]).itemsize
    page_size = require_page_size(page_size)
    per_slot = 2 * head_dim * width + 4 + (8 if dtype == "int8" else 0)
    return sum(kv_heads) * page_size * per_slot


def num_pages_for(cache_bytes: int, one_page_bytes: int) -> int:
    """Return how many pages `cache_bytes` hold.

    Raises:
        CapacityError: Not even one.
    """
    if cache_bytes < one_page_bytes:
        raise CapacityError(
            f"cache_bytes={cache_bytes} holds no page; one takes {one_page_bytes} bytes. Raise "
            f"cache_bytes."
        )
    return cache_bytes // one_page_bytes


class PagePool:
    """Counts the holders of each page; a page without a holder is free."""

    def __init__(self, store: KeyValues) -> None:
        self.store = store
        self.num_pages, self.page_size = store.num_pages, store.page_size
        self.holders = np.zeros(self.num_pages, np.int32)
        """[pages] how many requests and tree nodes hold each page."""
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
