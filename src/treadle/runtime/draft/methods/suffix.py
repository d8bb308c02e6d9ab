"""What followed the same words before."""

from collections.abc import Hashable, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from treadle.core.method import Paper
from treadle.runtime.draft.automaton import Match, SuffixAutomaton
from treadle.runtime.draft.base import Drafter, Drafting, DraftTarget
from treadle.runtime.draft.pasts import PastTexts
from treadle.runtime.draft.proposal import Draft, DraftText

__all__ = ["Suffix"]

_NOTHING = Draft([], [], [])


class Suffix(Drafter):
    """Draft what followed the longest end of the text that was seen before, in it or in others.

    Section 3: of each text and of all finished ones the frequencies of continuations are known; a
    token's chance is C(child) / C(node), a draft's the product of them, its length at most
    factor * matched + offset, and of the two sources the one with the greater sum of chances over
    its tokens is taken. We differ in that automata count instead of trees (any length of match, not
    64), the last occurrence of a text's own end, behind which nothing stands yet, is not counted,
    and finished texts go a quarter of the memory at once.

    Paper: SuffixDecoding, Oliaro et al., 2024.
    """

    name: ClassVar[str] = "suffix"
    paper = Paper(
        "SuffixDecoding: Extreme Speculative Decoding for Emerging AI Applications",
        2024,
        "https://arxiv.org/abs/2411.04975",
    )

    factor: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Tokens drafted for each token matched."""
    offset: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Tokens drafted beside these."""
    least_chance: Annotated[float, Field(gt=0, le=1)] = 0.1
    """A draft ends before a token that is less likely, as counted, with all before it."""
    shape: Literal["path", "tree"] = "path"
    """One continuation, or several."""
    max_tokens: Annotated[int, Field(ge=0)] = 65_536
    """Of finished texts that are remembered, over all groups; about 700 bytes each."""

    def open(self, target: DraftTarget) -> Drafting:
        """Return what will know the texts of an engine."""
        return SuffixTexts(self)


class _Known:
    """What is noted for one text."""

    def __init__(self) -> None:
        self.own = SuffixAutomaton()
        self.num_seen = 0
        self.matches: dict[int, tuple[SuffixAutomaton, Match, int]] = {}
        """Of each automaton of finished texts, by its id, with how many tokens were followed."""


class SuffixTexts(Drafting):
    """Automata of the texts of an engine."""

    def __init__(self, method: Suffix) -> None:
        self._method = method
        self._pasts = PastTexts(method.max_tokens)
        self._known: dict[Hashable, _Known] = {}

    def propose(self, texts: Sequence[DraftText], most: int) -> list[Draft]:
        """Return for each text what followed its end before."""
        return [self._draft(text, most) for text in texts]

    def finish(self, text: DraftText) -> None:
        """Remember an answer for the others of its group."""
        self._known.pop(text.key, None)
        self._pasts.add(text.group, text.tokens[text.num_prompt :])

    def read(self, text: DraftText) -> None:
        """Take in a text."""
        self._read(text)

    def _read(self, text: DraftText) -> _Known:
        known = self._known.get(text.key)
        if known is None:
            known = self._known[text.key] = _Known()
        for token in text.tokens[known.num_seen :]:
            known.own.extend(token)
        known.num_seen = len(text.tokens)
        return known

    def _draft(self, text: DraftText, most: int) -> Draft:
        known = self._read(text)
        best = self._grow(known.own, known.own.repeated, most, "own", 1)
        for automaton, match in self._matches(known, text):
            found = self._grow(automaton, match, most, "past", 0)
            if _score(found) > _score(best):
                best = found
        return best

    def _grow(
        self, automaton: SuffixAutomaton, match: Match, most: int, source: str, num_open: int
    ) -> Draft:
        method = self._method
        limit = min(most, int(method.factor * match.length + method.offset))
        if match.length == 0 or limit == 0:
            return _NOTHING
        grow = automaton.path if method.shape == "path" else automaton.tree
        return grow(match, limit, method.least_chance, num_open)._replace(source=source)

    def _matches(self, known: _Known, text: DraftText) -> list[tuple[SuffixAutomaton, Match]]:
        """Return the automata of finished texts and the longest end of the text in each."""
        found, before = [], known.matches
        known.matches = {}
        for automaton in self._pasts.of(text.group):
            _, match, first = before.get(id(automaton), (automaton, Match(0, 0), 0))
            for token in text.tokens[first:]:
                match = automaton.follow(match, token)
            known.matches[id(automaton)] = (automaton, match, len(text.tokens))
            found.append((automaton, match))
        return found


def _score(draft: Draft) -> float:
    """Return how many tokens of a draft are expected to be right."""
    reached = [1.0]
    for parent, chance in zip(draft.parents, draft.chances, strict=True):
        reached.append(reached[parent + 1] * chance)
    return sum(reached) - 1
