"""The prefix tree: which tokens stand in which pages, so that a common start is computed once.

It works in whole pages. A node holds a run of them; nodes split where texts part, and grow together
again where one is left, so that a path has no more nodes than texts part on it.
"""

import heapq
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from treadle.runtime.cache.pages import PagePool

__all__ = ["PrefixTree"]

Key = tuple[int, ...]
"""The tokens of one page."""


@dataclass(eq=False)
class _Node:
    keys: list[Key]
    pages: list[int]
    parent: "_Node | None"
    priority: int
    last_use: int
    children: dict[Key, "_Node"] = field(default_factory=dict)


class PrefixTree:
    """Remembers full pages by the tokens that lead to them; holds each of them once.

    A request that uses cached pages holds them too, from the root on; so the pages that only the
    tree holds are always a tail of their branch and can be evicted from its leaf.
    """

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        self._roots: dict[Hashable, _Node] = {}
        self._cached = np.zeros(pool.num_pages, np.bool_)
        self._tick = 0

    @property
    def num_evictable(self) -> int:
        """The number of pages that nobody but the tree holds."""
        return int(np.count_nonzero(self._cached & (self._pool.holders == 1)))

    @property
    def num_pages(self) -> int:
        """The number of pages in the tree."""
        return int(np.count_nonzero(self._cached))

    def match(
        self, tokens: Sequence[int], group: Hashable = "", priority: int | None = None
    ) -> list[int]:
        """Return the pages of the longest cached start of `tokens`, held for the caller.

        Args:
            tokens: The text; only whole pages of it match.
            group: Texts of different groups never share.
            priority: Of the request, to protect what it uses; lower is more important.
        """
        self._tick += 1
        found: list[int] = []
        path: list[_Node] = []
        for node, count in self._walk(tokens, group):
            found += node.pages[:count]
            self._touch(node, priority)
            path.append(node)
        self._join(path)
        self._pool.retain(found)
        return found

    def peek(self, tokens: Sequence[int], group: Hashable = "") -> list[int]:
        """Return the pages that `match` would, touching and holding nothing."""
        return [page for node, count in self._walk(tokens, group) for page in node.pages[:count]]

    def insert(
        self, tokens: Sequence[int], pages: list[int], group: Hashable = "", priority: int = 0
    ) -> list[int]:
        """Remember that `pages` hold `tokens` and return the pages that the caller holds from now.

        Where the tree already has these tokens, its page takes the place of the caller's, which is
        released: so a request always holds what the tree holds of its text.
        """
        self._tick += 1
        keys = self._keys(tokens)
        assert len(keys) == len(pages)
        node = self._roots.setdefault(group, _Node([], [], None, priority, self._tick))
        canonical: list[int] = []
        path: list[_Node] = []
        while len(canonical) < len(keys):
            at = len(canonical)
            child = node.children.get(keys[at])
            if child is None:
                self._append(node, keys[at:], pages[at:], priority)
                canonical += pages[at:]
                break
            shared = _shared(child.keys, keys, at)
            if shared < len(child.keys) and shared < len(keys) - at:
                self._split(child, shared)
            canonical += child.pages[:shared]
            self._touch(child, priority)
            path.append(child)
            node = child
        self._join(path)
        for own, kept in zip(pages, canonical, strict=True):
            if own != kept:
                self._pool.retain([kept])
                self._pool.release([own])
        return canonical

    def evict(self, count: int) -> int:
        """Free up to `count` pages that only the tree holds and return how many.

        The least important priority goes first, then what was used longest ago.
        """
        freed = 0
        order = [
            (-leaf.priority, leaf.last_use, number, leaf)
            for number, leaf in enumerate(self._leaves())
        ]
        heapq.heapify(order)
        number = len(order)
        while order and freed < count:
            leaf = heapq.heappop(order)[3]
            while leaf.pages and freed < count and self._pool.holders[leaf.pages[-1]] == 1:
                self._cached[leaf.pages[-1]] = False
                self._pool.release([leaf.pages.pop()])
                first = leaf.keys[0]
                leaf.keys.pop()
                freed += 1
            parent = leaf.parent
            if leaf.pages or parent is None:
                continue
            del parent.children[first]
            if not parent.children and parent.parent is not None:
                number += 1
                heapq.heappush(order, (-parent.priority, parent.last_use, number, parent))
        return freed

    def clear(self) -> int:
        """Evict all that no request holds and return the number of pages freed."""
        return self.evict(self._pool.num_pages)

    def _keys(self, tokens: Sequence[int]) -> list[Key]:
        size = self._pool.page_size
        return [tuple(tokens[at : at + size]) for at in range(0, len(tokens) - size + 1, size)]

    def _walk(self, tokens: Sequence[int], group: Hashable) -> Iterator[tuple[_Node, int]]:
        """Yield the nodes along `tokens` and how many pages of each match."""
        node = self._roots.get(group)
        keys, at = self._keys(tokens), 0
        while node is not None and at < len(keys):
            node = node.children.get(keys[at])
            if node is None:
                return
            shared = _shared(node.keys, keys, at)
            yield node, shared
            if shared < len(node.keys):
                return
            at += shared

    def _touch(self, node: _Node, priority: int | None) -> None:
        node.last_use = self._tick
        if priority is not None:
            node.priority = min(node.priority, priority)

    def _append(self, node: _Node, keys: list[Key], pages: list[int], priority: int) -> None:
        """Put new pages behind `node`: into it where it is a leaf, else into a child."""
        self._pool.retain(pages)
        self._cached[pages] = True
        if node.parent is not None and not node.children and node.priority == priority:
            node.keys += keys
            node.pages += pages
            self._touch(node, priority)
            return
        node.children[keys[0]] = _Node(list(keys), list(pages), node, priority, self._tick)

    def _split(self, node: _Node, at: int) -> None:
        """Leave the first `at` pages in `node` and move the others into a child."""
        tail = _Node(
            node.keys[at:], node.pages[at:], node, node.priority, node.last_use, node.children
        )
        for child in tail.children.values():
            child.parent = tail
        node.keys, node.pages, node.children = (
            node.keys[:at],
            node.pages[:at],
            {tail.keys[0]: tail},
        )

    def _join(self, path: list[_Node]) -> None:
        """Let nodes of a path that was just used take in what follows, where that is all they have.

        Both are used alike, so that what is evicted next is what it would have been.
        """
        node = path[0] if path else None
        for child in path[1:]:
            assert node is not None
            if len(node.children) > 1 or node.priority != child.priority:
                node = child
                continue
            node.keys += child.keys
            node.pages += child.pages
            node.children = child.children
            for grandchild in node.children.values():
                grandchild.parent = node

    def _leaves(self) -> Iterator[_Node]:
        waiting = [child for root in self._roots.values() for child in root.children.values()]
        while waiting:
            node = waiting.pop()
            if node.children:
                waiting.extend(node.children.values())
            else:
                yield node


def _shared(run: list[Key], keys: list[Key], first: int) -> int:
    """Return how many keys a run has in common with `keys` from `first` on."""
    most = min(len(run), len(keys) - first)
    return next((at for at in range(most) if run[at] != keys[first + at]), most)
