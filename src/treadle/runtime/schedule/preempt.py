"""Taking pages from a request and giving them back: by the prefix tree, a copy, or a sibling."""

from treadle.runtime.cache.radix import PrefixTree
from treadle.runtime.request import Request
from treadle.runtime.schedule.holdings import Holdings, Saved

__all__ = ["Preemption"]


class Preemption:
    """Knows where the keys and values of a request are when it does not run."""

    def __init__(
        self, holdings: Holdings, tree: PrefixTree, by_swap: bool, has_cache: bool
    ) -> None:
        self._holdings, self._pool, self._tree = holdings, holdings.pool, tree
        self._by_swap, self._has_cache = by_swap, has_cache
        self._swapped: dict[str, Saved] = {}
        self.count = 0

    def take(self, request: Request) -> None:
        """Take what a request holds, keeping a copy where preemption is by swap."""
        self.count += 1
        request.num_preemptions += 1
        if self._by_swap and request.num_computed:
            used = self._num_pages(request.num_computed)
            self._swapped[request.id] = self._holdings.save(request, 0, used)
        else:
            request.num_computed = 0
        self._holdings.release(request)

    def saved(self, request: Request, first: int, last: int) -> Saved:
        """Return a copy of a request's pages number `first` to `last`, wherever they are.

        Of a request whose heads keep their own entries it is a copy of all of them.
        """
        if request.id not in self._swapped:
            return self._holdings.save(request, first, last)
        saved = self._swapped[request.id]
        if saved.lengths is not None:
            return saved
        return Saved([part[first:last] for part in saved.content], None)

    def drop(self, request: Request) -> None:
        """Let go of all that is kept of a request."""
        self._swapped.pop(request.id, None)
        self._holdings.release(request)

    def found(self, request: Request, parent: Request | None) -> list[int]:
        """Return the pages that `give_back` would let a request hold without allocating."""
        if request.pages or request.id in self._swapped or request.keep is not None:
            return request.pages
        if self._can_fork(request, parent):
            assert parent is not None
            return parent.pages[: (request.num_prompt - 1) // self._pool.page_size]
        if not self._has_cache:
            return []
        return self._tree.peek(request.tokens[: request.num_reusable], request.cache_group)

    def give_back(self, request: Request, parent: Request | None) -> None:
        """Give a request that starts to run what is cached of it, but never its last token."""
        if request.holds_cache:
            return  # it was paused and kept them
        if request.id in self._swapped:
            self._holdings.restore(request, self._swapped.pop(request.id))
            return
        if self._can_fork(request, parent):
            assert parent is not None
            self._holdings.fork(request, parent, request.num_prompt - 1)
        elif self._has_cache and request.keep is None:
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
        if parent.keep != request.keep or not self._has_all(parent, request.num_prompt):
            return False
        # The parent may have ended, and its id be in use for another text.
        return parent.tokens[: request.num_prompt] == request.tokens

    def branch(self, request: Request, parent: Request, num_tokens: int) -> None:
        """Give a request that is new, and goes another way than `parent` after their first tokens.

        What the parent no longer holds is taken from the prefix tree, or computed again, once the
        request is let in.
        """
        if parent.cache_group != request.cache_group or parent.keep != request.keep:
            return
        if request.keep is not None and parent.num_prompt != request.num_prompt:
            return  # what is kept may be a fraction of the prompt
        if parent.num_computed < num_tokens or not self._has_all(parent, num_tokens + 1):
            return
        if parent.id not in self._swapped:
            self._holdings.fork(request, parent, num_tokens)
        elif parent.num_computed == num_tokens:
            self._swapped[request.id] = self._swapped[parent.id]
            request.num_computed = num_tokens
            request.surprises = parent.surprises[: num_tokens + 1]

    @staticmethod
    def _has_all(parent: Request, num_prompt: int) -> bool:
        """Say whether a parent dropped nothing since the last token but one of the prompt."""
        num_later = parent.num_computed - (num_prompt - 1)
        return parent.entries is None or num_later <= parent.entries.num_fresh

    def restart(self, request: Request) -> None:
        """Let go of what a request holds: its text grew, and turns by other factors now.

        What others have computed of it by these is taken.
        """
        self.drop(request)
        request.num_computed = 0
        self.give_back(request, None)

    def repeat_last(self, request: Request) -> None:
        """Forget the last row of a request, or all of them where entries went since."""
        can_roll_back = request.entries is None or request.entries.num_fresh
        if request.holds_cache and can_roll_back:
            self._holdings.roll_back(request, 1)
            return
        self.drop(request)
        request.num_computed = 0

    def publish(self, request: Request, regime: int) -> None:
        """Put a request's full pages, which were computed in `regime`, into the tree."""
        full = request.num_computed // self._pool.page_size
        tokens = request.tokens[: full * self._pool.page_size]
        request.pages[:full] = self._tree.insert(
            tokens, request.pages[:full], request.group_in(regime), request.priority
        )

    def _num_pages(self, num_tokens: int) -> int:
        return -(-num_tokens // self._pool.page_size)
