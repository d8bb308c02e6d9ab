"""Taking pages from a request and giving them back: by the prefix tree, a copy, or a sibling."""

import numpy as np
import numpy.typing as npt

from treadle.runtime.pages import PagePool
from treadle.runtime.radix import PrefixTree
from treadle.runtime.request import Request

__all__ = ["Preemption"]


class Preemption:
    """Knows where the keys and values of a request are when it does not run."""

    def __init__(self, pool: PagePool, tree: PrefixTree, by_swap: bool, has_cache: bool) -> None:
        self._pool, self._tree = pool, tree
        self._by_swap, self._has_cache = by_swap, has_cache
        self._swapped: dict[str, list[npt.NDArray[np.generic]]] = {}
        self.count = 0

    def take(self, request: Request) -> None:
        """Take a request's pages, keeping a copy where preemption is by swap."""
        self.count += 1
        request.num_preemptions += 1
        if self._by_swap and request.num_computed:
            held = request.pages[: self._num_pages(request.num_computed)]
            self._swapped[request.id] = self._pool.store.read(held)
        else:
            request.num_computed = 0
        self._pool.release(request.pages)
        request.pages = []

    def content(self, request: Request, first: int, last: int) -> list[npt.NDArray[np.generic]]:
        """Return a copy of a request's pages number `first` to `last`, wherever they are."""
        if request.id in self._swapped:
            return [array[first:last] for array in self._swapped[request.id]]
        return self._pool.store.read(request.pages[first:last])

    def drop(self, request: Request) -> None:
        """Let go of all that is kept of a request."""
        self._swapped.pop(request.id, None)
        self._pool.release(request.pages)
        request.pages = []

    def found(self, request: Request, parent: Request | None) -> list[int]:
        """Return the pages that `give_back` would let a request hold without allocating."""
        if request.pages or request.id in self._swapped:
            return request.pages
        if self._can_fork(request, parent):
            assert parent is not None
            return parent.pages[: request.num_prompt // self._pool.page_size]
        if not self._has_cache:
            return []
        return self._tree.peek(request.tokens[: request.num_reusable], request.cache_group)

    def give_back(self, request: Request, parent: Request | None) -> None:
        """Give a request that starts to run what is cached of it, but never its last token."""
        if request.pages:
            return  # it was paused and kept them
        if request.id in self._swapped:
            content = self._swapped.pop(request.id)
            count = self._num_pages(request.num_computed)
            self._tree.evict(count - self._pool.num_free)
            request.pages = self._pool.allocate(count)
            self._pool.store.write(request.pages, content)
            return
        if self._can_fork(request, parent):
            assert parent is not None
            self._fork(request, parent)
        elif self._has_cache:
            request.pages = self._tree.match(
                request.tokens[: request.num_reusable], request.cache_group, request.priority
            )
            request.num_computed = len(request.pages) * self._pool.page_size

    def _can_fork(self, request: Request, parent: Request | None) -> bool:
        """Say whether a sibling holds the whole prompt that `request` is to continue."""
        if parent is None or parent.cache_group != request.cache_group:
            return False
        if request.num_new or parent.num_computed < request.num_prompt:
            return False
        # The parent may have ended, and its id be in use for another text.
        return parent.tokens[: request.num_prompt] == request.tokens

    def _fork(self, request: Request, parent: Request) -> None:
        """Share the pages of the prompt with a sibling; the last one is copied when written to."""
        request.pages = parent.pages[: self._num_pages(request.num_prompt)]
        self._pool.retain(request.pages)
        request.num_computed = request.num_prompt - 1

    def publish(self, request: Request) -> None:
        """Put a request's full pages into the tree."""
        full = request.num_computed // self._pool.page_size
        tokens = request.tokens[: full * self._pool.page_size]
        request.pages[:full] = self._tree.insert(
            tokens, request.pages[:full], request.cache_group, request.priority
        )

    def _num_pages(self, num_tokens: int) -> int:
        return -(-num_tokens // self._pool.page_size)
