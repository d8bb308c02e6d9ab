"""What was written before, by the groups that may know of it; the oldest is forgotten."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from treadle.runtime.draft.automaton import SuffixAutomaton

__all__ = ["GroupTables", "PastTexts"]

_PARTS = 4
"""A part goes at once; so much of a full memory is lost with it."""

T = TypeVar("T")


class PastTexts:
    """Automata over finished texts; that goes first whose newest text is the oldest."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens, self._num_tokens = max_tokens, 0
        self._groups: dict[Hashable, list[SuffixAutomaton]] = {}
        self._order: OrderedDict[int, tuple[Hashable, SuffixAutomaton]] = OrderedDict()

    @property
    def num_tokens(self) -> int:
        """The tokens of all texts that are remembered."""
        return self._num_tokens

    def of(self, group: Hashable) -> Sequence[SuffixAutomaton]:
        """Return what is remembered for a group."""
        return self._groups.get(group, ())

    def add(self, group: Hashable, tokens: Sequence[int]) -> None:
        """Remember a text, or its end where it is longer than a part."""
        most = self._max_tokens // _PARTS
        tokens = tokens[-most:] if most else ()
        if not tokens:
            return
        parts = self._groups.setdefault(group, [])
        if not parts or parts[-1].num_tokens + len(tokens) > most:
            parts.append(SuffixAutomaton())
        self._order[id(parts[-1])] = (group, parts[-1])
        self._order.move_to_end(id(parts[-1]))
        parts[-1].begin()
        for token in tokens:
            parts[-1].extend(token)
        self._num_tokens += len(tokens)
        while self._num_tokens > self._max_tokens:
            self._forget()

    def _forget(self) -> None:
        _, (group, oldest) = self._order.popitem(last=False)
        self._num_tokens -= oldest.num_tokens
        self._groups[group].remove(oldest)
        if not self._groups[group]:
            del self._groups[group]


class GroupTables(Generic[T]):
    """A table for each group; those that were not used longest go when there are too many."""

    def __init__(self, make: Callable[[], T], most: int) -> None:
        self._make, self._most = make, most
        self._tables: OrderedDict[Hashable, T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tables)

    def of(self, group: Hashable) -> T:
        """Return a group's table, a new one where it has none."""
        if group not in self._tables:
            self._tables[group] = self._make()
            if len(self._tables) > self._most:
                self._tables.popitem(last=False)
        self._tables.move_to_end(group)
        return self._tables[group]
