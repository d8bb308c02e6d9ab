"""A suffix automaton that grows with its texts and counts what it saw.

It knows every stretch of tokens of its texts, in memory linear in them (Blumer et al., 1985); a new
token takes constant time on average.
"""

import heapq
from typing import NamedTuple

from treadle.runtime.draft.proposal import Draft

__all__ = ["Match", "SuffixAutomaton"]

_MOST_LINKS = 64
"""Shorter ends that are counted with a new token; only a text that repeats one token has more."""


class Match(NamedTuple):
    """The longest end of a text that an automaton has seen."""

    state: int
    length: int


class SuffixAutomaton:
    """States are sets of stretches that end at the same places; state 0 is the empty one."""

    def __init__(self) -> None:
        self.followers: list[dict[int, int]] = [{}]
        """Of each state: token -> state."""
        self.links: list[int] = [-1]
        """The state of the longest end that was seen in more places."""
        self.lengths: list[int] = [0]
        """Of the longest stretch of each state."""
        self.counts: list[int] = [0]
        """Places in which its stretches end."""
        self.num_tokens = 0
        self._last = 0

    def begin(self) -> None:
        """Let a new text begin."""
        self._last = 0

    def extend(self, token: int) -> None:
        """Take in the next token of the text."""
        followers, links, lengths = self.followers, self.links, self.lengths
        self.num_tokens += 1
        known = followers[self._last].get(token)
        if known is not None:  # only where a new text begins as another one did
            if lengths[known] == lengths[self._last] + 1:
                self._last = known
            else:
                self._last = self._split(self._last, token, known)
            self._count(self._last)
            return
        state, own = self._last, self._add({}, 0, lengths[self._last] + 1, 0)
        while state >= 0 and token not in followers[state]:
            followers[state][token] = own
            state = links[state]
        if state >= 0:
            found = followers[state][token]
            is_whole = lengths[found] == lengths[state] + 1
            links[own] = found if is_whole else self._split(state, token, found)
        self._last = own
        self._count(own)

    def _add(self, followers: dict[int, int], link: int, length: int, count: int) -> int:
        self.followers.append(followers)
        self.links.append(link)
        self.lengths.append(length)
        self.counts.append(count)
        return len(self.links) - 1

    def _split(self, state: int, token: int, found: int) -> int:
        """Give the shorter stretches of `found` a state of their own and return it."""
        followers, links = self.followers, self.links
        own = self._add(
            *(dict(followers[found]), links[found]), self.lengths[state] + 1, self.counts[found]
        )
        links[found] = own
        while state >= 0 and followers[state].get(token) == found:
            followers[state][token] = own
            state = links[state]
        return own

    def _count(self, state: int) -> None:
        links, counts = self.links, self.counts
        for _ in range(_MOST_LINKS):
            if state <= 0:
                return
            counts[state] += 1
            state = links[state]

    @property
    def repeated(self) -> Match:
        """The longest end of its own text that it has seen before."""
        link = max(0, self.links[self._last])
        return Match(link, self.lengths[link])

    def follow(self, match: Match, token: int) -> Match:
        """Return the longest end of another text, whose next token is `token`."""
        followers, links, lengths = self.followers, self.links, self.lengths
        state, length = match
        # States may have been split since.
        while state and length <= lengths[links[state]]:
            state = links[state]
        while state and token not in followers[state]:
            state = links[state]
            length = lengths[state]
        if token not in followers[state]:
            return Match(0, 0)
        return Match(followers[state][token], length + 1)

    def path(self, match: Match, most: int, least_chance: float, num_open: int = 0) -> Draft:
        """Return the most frequent continuation, token after token.

        Args:
            match: The end of the text.
            most: Tokens at most.
            least_chance: Of the whole continuation, as counted; it ends before.
            num_open: Places of the match behind which nothing has come yet.
        """
        state, chance = match.state, 1.0
        tokens: list[int] = []
        chances: list[float] = []
        counts = self.counts
        seen = max(1, counts[state] - num_open)
        while len(tokens) < most and self.followers[state]:
            count, token, state = self._likeliest(state)
            own = min(1.0, count / seen)
            chance *= own
            if chance < least_chance:
                break
            tokens.append(token)
            chances.append(own)
            seen = max(1, count)
        return Draft(tokens, list(range(-1, len(tokens) - 1)), chances, "", match.length)

    def _likeliest(self, state: int) -> tuple[int, int, int]:
        """Return count, token and state of the follower seen most; of equals the newest."""
        best = (-1, 0, 0)
        for token, follower in self.followers[state].items():
            if self.counts[follower] >= best[0]:
                best = (self.counts[follower], token, follower)
        return best

    def tree(self, match: Match, most: int, least_chance: float, num_open: int = 0) -> Draft:
        """Return the most frequent continuations, best first; arguments as for `path`."""
        draft = Draft([], [], [], "", match.length)
        heap: list[tuple[float, int, int, int, int, float]] = []
        number = 0

        def push(state: int, parent: int, chance: float, seen: int) -> None:
            nonlocal number
            for token, follower in self.followers[state].items():
                own = min(1.0, self.counts[follower] / seen)
                number += 1
                if chance * own >= least_chance:
                    heapq.heappush(heap, (-chance * own, number, parent, token, follower, own))

        push(match.state, -1, 1.0, max(1, self.counts[match.state] - num_open))
        while heap and len(draft.tokens) < most:
            minus, _, parent, token, state, own = heapq.heappop(heap)
            draft.tokens.append(token)
            draft.parents.append(parent)
            draft.chances.append(own)
            push(state, len(draft.tokens) - 1, -minus, max(1, self.counts[state]))
        return draft
