"""What requests hold of the cache: whole pages, or planes where each head keeps its own entries."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.errors import SettingsError
from treadle.runtime.cache.entries import HeadEntries
from treadle.runtime.cache.pages import Content, PagePool
from treadle.runtime.cache.planes import PlanePool
from treadle.runtime.cache.radix import PrefixTree
from treadle.runtime.cache.units import UnitForm, unit_form
from treadle.runtime.evict.cached import Turns
from treadle.runtime.evict.keeping import Keeping
from treadle.runtime.evict.reading import TextSoFar
from treadle.runtime.request import Request

__all__ = ["Holdings", "ModelSeen", "Saved"]

Floats = npt.NDArray[np.float32]


class ModelSeen(NamedTuple):
    """What policies read of a model."""

    num_query_heads: int = 0
    """Of all layers."""
    head_dim: int = 0
    turns: Callable[[Any], Sequence[Turns]] | None = None  # Any: positions
    """Returns each layer's rotation at positions."""

    def no_queries(self) -> Floats:
        """Return sums of queries before there are any."""
        return np.zeros((self.num_query_heads, self.head_dim * (self.head_dim + 1)), np.float32)


class Saved(NamedTuple):
    """A copy of what a request held."""

    content: Content
    """Of its pages, or of its planes."""
    lengths: list[int] | None
    """Entries of each head, of a request whose heads keep their own."""
    queries: Floats | None = None
    """Sums of its queries, where its policy asks for them."""


class Holdings:
    """Gives requests what they need of the cache, takes it back, copies it."""

    def __init__(self, pool: PagePool, tree: PrefixTree, model: ModelSeen | None = None) -> None:
        self.pool, self.planes, self._tree = pool, PlanePool(pool), tree
        self._model = model or ModelSeen()

    def needed(self, request: Request, num_tokens: int) -> int:
        """Return how many pages `request` takes at most until it has run `num_tokens` tokens."""
        if request.keep is not None:
            size = self.pool.page_size
            return request.keep.num_pages(num_tokens, request.num_prompt, size)
        return self._num_pages(num_tokens)

    def held(self, request: Request) -> int:
        """Return how many pages `request` holds."""
        if request.entries is not None:
            return request.entries.num_planes // self.planes.per_page
        return len(request.pages)

    def num_available(self, request: Request) -> int:
        """Return how many pages are free for `request`, or only cached."""
        planes = 0 if request.keep is None else self.planes.num_free // self.planes.per_page
        return self.pool.num_free + self._tree.num_evictable + planes

    def grow(self, request: Request, num_rows: int) -> bool:
        """Give `request` what its next rows need if enough is free or only cached."""
        if request.keep is not None:
            return self._grow_entries(request, num_rows)
        pool, at = self.pool, request.num_computed // self.pool.page_size
        is_shared = at < len(request.pages) and pool.holders[request.pages[at]] > 1
        missing = self._num_pages(request.num_computed + num_rows) - len(request.pages)
        if not self._free(missing + is_shared):
            return False
        if is_shared:
            request.pages[at] = pool.own(request.pages[at])
        if missing > 0:
            request.pages += pool.allocate(missing)
        return True

    def _grow_entries(self, request: Request, num_rows: int) -> bool:
        if request.entries is None:
            request.entries = HeadEntries.empty(self.planes.per_page)
            assert request.keep is not None
            if "queries" in request.keep.method.reads:
                request.entries.queries = self._model.no_queries()
        missing = request.entries.missing(num_rows, self.pool.page_size)
        count = int(missing.sum())
        if count == 0:
            return True
        if not self._free(self.planes.pages_for(count)):
            return False
        request.entries.give(missing, self.planes.allocate(count))
        return True

    def _free(self, count: int) -> bool:
        """Take pages from the prefix tree until `count` are free; says whether they are."""
        short = count - self.pool.num_free
        return short <= 0 or self._tree.evict(short) >= short

    def add_rows(self, request: Request, num_rows: int) -> None:
        """Note that the next rows of `request` are computed."""
        before = request.num_computed
        request.num_computed += num_rows
        if request.entries is None:
            return
        request.entries.add(num_rows)
        assert request.keep is not None
        if request.keep.drafts_left(before, request.num_prompt) < num_rows:
            request.entries.num_fresh = 0

    def roll_back(self, request: Request, num_rows: int) -> None:
        """Forget the last rows of `request`, none of them from before entries were dropped last."""
        if num_rows == 0:
            return
        request.num_computed -= num_rows
        if request.entries is not None:
            request.entries.add(-num_rows)
            self._trim(request.entries)
            return
        needed = self._num_pages(request.num_computed)
        self.pool.release(request.pages[needed:])
        del request.pages[needed:]

    def compact(self, request: Request, first: int, path: Sequence[int]) -> None:
        """Let what was chosen of a tree of drafts stand where the text goes on.

        Args:
            request: With its own pages, which hold the tree.
            first: The slot of its text where the drafts begin.
            path: Places of the chosen ones among them, ascending.
        """
        ahead = next((n for n, place in enumerate(path) if n != place), len(path))
        if ahead == len(path):
            return
        size, pages = self.pool.page_size, np.asarray(request.pages, np.int64)

        def in_pool(slots: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
            return np.asarray(pages[slots // size] * size + slots % size, np.int64)

        sources = np.asarray(path[ahead:], np.int64) + first
        targets = np.arange(ahead, len(path), dtype=np.int64) + first
        self.pool.store.move(in_pool(sources), in_pool(targets))

    def drop(self, request: Request) -> None:
        """Let the entries of `request` go that its policy does not keep."""
        assert request.keep is not None
        assert request.entries is not None
        if request.keep.method.packed_bits:
            self._pack(request, request.keep, request.entries)
            return
        text = TextSoFar(
            request.tokens,
            request.num_computed,
            request.num_prompt,
            request.surprises,
            self._model.turns,
        )
        if request.keep.drop(request.entries, text, self.pool.store):
            self._trim(request.entries)

    def _pack(self, request: Request, keep: Keeping, entries: HeadEntries) -> None:
        """Pack the older entries of `request`."""
        for _ in range(entries.num_units, keep.num_units(request.num_computed)):
            form = self._form(keep)
            self.planes.release(entries.pack(keep.method.sinks, form, self.pool.store))

    def _form(self, keep: Keeping) -> UnitForm:
        store = self.pool.store
        return unit_form(keep.method.packed_bits, store.dtype, store.page_size, store.head_dim)

    def _trim(self, entries: HeadEntries) -> None:
        self.planes.release(entries.trim(self.pool.page_size))

    def release(self, request: Request) -> None:
        """Take all that `request` holds."""
        self.pool.release(request.pages)
        request.pages = []
        if request.entries is not None:
            request.kept = request.entries.lengths.tolist()
            self.planes.release(request.entries.held)
            request.entries = None

    def fork(self, request: Request, parent: Request, num_tokens: int) -> bool:
        """Give `request` what a parent has of the first `num_tokens` tokens of both.

        Pages are shared, and the last one is copied when it is written to; planes are copied at
        once. Says whether there is room for that; nothing is changed if not.
        """
        if parent.entries is None:
            request.pages = parent.pages[: self._num_pages(num_tokens)]
            self.pool.retain(request.pages)
        else:
            own = parent.entries.without(parent.num_computed - num_tokens)
            own.trim(self.pool.page_size)  # the parent keeps them
            if not self._free(self.planes.pages_for(own.num_planes)):
                return False
            content = self.pool.store.read_planes(own.held)
            saved = Saved(content, own.lengths.tolist(), own.queries)
            self._restore_entries(request, saved)
            request.surprises = parent.surprises[: num_tokens + 1]
        request.num_computed = num_tokens
        return True

    def save(self, request: Request, first: int = 0, last: int | None = None) -> Saved:
        """Return a copy of what `request` holds: of pages number `first` to `last`, or planes."""
        if request.keep is None:
            return Saved(self.pool.store.read(request.pages[first:last]), None)
        entries = request.entries or HeadEntries.empty(self.planes.per_page)
        self._trim(entries)
        content = self.pool.store.read_planes(entries.held)
        return Saved(content, entries.lengths.tolist(), entries.queries)

    def restore(self, request: Request, saved: Saved) -> None:
        """Put a copy into new pages or planes behind what `request` holds.

        Raises:
            CapacityError: Too few are free; nothing is changed.
            SettingsError: It is a copy of another shape; nothing is changed.
        """
        if saved.lengths is not None:
            self._restore_entries(request, saved)
            return
        count = len(saved.content[0])
        self._tree.evict(count - self.pool.num_free)
        pages = self.pool.allocate(count)
        try:
            self.pool.store.write(pages, saved.content)
        except Exception:
            self.pool.release(pages)
            raise
        request.pages = request.pages + pages

    def _restore_entries(self, request: Request, saved: Saved) -> None:
        content, queries = saved.content, saved.queries
        entries, count = self._entries_of(request, saved.lengths or []), len(content[0])
        missing = entries.missing(0, self.pool.page_size)
        if missing.sum() != count:
            raise SettingsError(
                f"The copy has {count} planes for {len(missing)} heads that need "
                f"{missing.sum()}; export the request again."
            )
        sums = None
        if request.keep is not None and "queries" in request.keep.method.reads:
            sums = self._model.no_queries() if queries is None else queries.copy()
            if sums.shape != self._model.no_queries().shape:
                raise SettingsError(
                    f"The copy has sums of queries of shape {sums.shape}, expected "
                    f"{self._model.no_queries().shape}; export the request again."
                )
        self._free(self.planes.pages_for(count))
        planes = self.planes.allocate(count)
        try:
            self.pool.store.write_planes(planes, content)
        except Exception:
            self.planes.release(planes)
            raise
        entries.queries = sums
        entries.give(missing, planes)
        request.entries = entries

    def _entries_of(self, request: Request, lengths: list[int]) -> HeadEntries:
        """Return entries of heads that have no planes yet, packed as they were.

        Raises:
            SettingsError: This model has other heads, or some that are packed differ.
        """
        found, keep = HeadEntries.empty(self.planes.per_page), request.keep
        num_units = 0 if keep is None else keep.num_units(max(lengths, default=0))
        if len(lengths) != self.planes.per_page or (num_units and len(set(lengths)) > 1):
            raise SettingsError(
                f"The copy has the entries {lengths!r:.60} of {len(lengths)} heads, and this model "
                f"has {self.planes.per_page}, all alike where they are packed; export the request "
                f"again."
            )
        found.lengths = np.asarray(lengths, np.int64)
        if keep is not None and num_units:
            found.num_units, found.form = num_units, self._form(keep)
            found.first_packed = keep.method.sinks
        return found

    def _num_pages(self, num_tokens: int) -> int:
        return -(-num_tokens // self.pool.page_size)
