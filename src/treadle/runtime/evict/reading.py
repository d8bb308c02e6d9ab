"""From the entries of a text to what its policy sees of them."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from treadle.runtime.evict.base import Eviction
from treadle.runtime.evict.cached import Cached, StoredEntries, Turns

if TYPE_CHECKING:
    from treadle.runtime.cache.entries import HeadEntries
    from treadle.runtime.cache.pages import KeyValues

__all__ = ["TextSoFar", "read_entries"]

Ints = npt.NDArray[np.int64]


class TextSoFar(NamedTuple):
    """What a policy may look at of a text."""

    tokens: Sequence[int]
    num_computed: int
    num_prompt: int
    surprises: Sequence[float] = ()
    """[tokens] how improbable each was, where the policy reads that."""
    turns: Callable[[Any], Sequence[Turns]] | None = None  # Any: positions
    """Each layer's rotation at positions, where the policy reads queries."""


def read_entries(
    entries: "HeadEntries", store: "KeyValues", method: Eviction, text: TextSoFar
) -> tuple[Cached, Ints]:
    """Return what a policy sees, and the places [kv_heads, entries] of what stands there."""
    positions = entries.positions(store)
    order = np.where(positions < 0, np.iinfo(np.int32).max, positions).argsort(axis=1)
    reads = method.reads
    cached = Cached(
        np.take_along_axis(positions, order, axis=1),
        store.kv_heads,
        text.num_computed,
        text.num_prompt,
        np.take_along_axis(entries.scores(store), order, axis=1),
        text.tokens,
        np.asarray(text.surprises, np.float32) if "surprises" in reads else None,
        entries.queries,
        text.num_computed - min(method.sinks, text.num_computed),
        _Layers(entries, store, order) if "layers" in reads else None,
        text.turns,
    )
    return cached, order


class _Layers(Sequence[StoredEntries]):
    """Reads a layer's keys and values when it is looked at."""

    def __init__(self, entries: "HeadEntries", store: "KeyValues", order: Ints) -> None:
        self._entries, self._store, self._order = entries, store, order
        self._firsts = np.cumsum([0, *store.kv_heads])

    def __len__(self) -> int:
        return len(self._firsts) - 1

    @overload
    def __getitem__(self, layer: int) -> StoredEntries: ...
    @overload
    def __getitem__(self, layer: slice) -> Sequence[StoredEntries]: ...
    def __getitem__(self, layer: int | slice) -> StoredEntries | Sequence[StoredEntries]:
        if isinstance(layer, slice):
            return [self[number] for number in range(*layer.indices(len(self)))]
        if not 0 <= layer < len(self):
            raise IndexError(layer)
        own = slice(self._firsts[layer], self._firsts[layer + 1])
        order = self._order[own]
        num_pages = -(-order.shape[1] // self._store.page_size)
        keys, values = self._store.numbers_of(self._entries.planes[own, :num_pages])
        if self._store.key_factors is not None:
            keys = keys * self._store.key_factors[layer][:, None]
        order = order[..., None]
        return StoredEntries(
            np.take_along_axis(keys, order, axis=1), np.take_along_axis(values, order, axis=1)
        )
