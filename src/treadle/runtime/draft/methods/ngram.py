"""The token that came last behind the same few tokens."""

from array import array
from collections.abc import Hashable, Sequence
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from treadle.core.method import Standard
from treadle.runtime.draft.base import Drafter, Drafting, DraftTarget
from treadle.runtime.draft.pasts import GroupTables
from treadle.runtime.draft.proposal import Draft, DraftText

__all__ = ["Ngram"]

_MOST_GROUPS = 16
_MIX = 0x9E3779B97F4A7C15
"""Spreads keys over the table (Knuth's multiplicative hashing)."""
_WORD = (1 << 64) - 1
_SHIFT, _KEY = 32, (1 << 31) - 1


class Ngram(Drafter):
    """Draft the token that came last behind the same n tokens, in this text or in another one.

    A table of fixed size has for each n a slot by the hash of the n tokens; the longest n that is
    found decides, token after token. Prompts count like answers, so that prompt lookup is included.
    """

    name: ClassVar[str] = "ngram"
    paper = Standard(
        "Prompt lookup decoding (Saxena, 2023), with the shared hash table of llama.cpp's n-gram "
        "drafters (docs/speculative.md)."
    )

    longest: Annotated[int, Field(ge=1, le=16)] = 4
    """Tokens looked up, at most."""
    shortest: Annotated[int, Field(ge=1, le=16)] = 2
    """Tokens looked up, at least."""
    most_tokens: Annotated[int, Field(ge=1)] = 16
    """Tokens of a draft."""
    slots: Annotated[int, Field(ge=16)] = 65_536
    """Of the table of each n and group; 8 bytes each."""

    @model_validator(mode="after")
    def _in_order(self) -> "Ngram":
        if self.shortest > self.longest:
            raise ValueError(f"shortest={self.shortest} is more than longest={self.longest}")
        return self

    def open(self, target: DraftTarget) -> Drafting:
        """Return what will know the texts of an engine."""
        return NgramTables(self)


class NgramTables(Drafting):
    """The tables of an engine. A slot holds 31 bits of the hash and the token, 0 for nothing."""

    def __init__(self, method: Ngram) -> None:
        self._method = method
        self._orders = range(method.longest, method.shortest - 1, -1)
        self._tables = GroupTables(self._empty, _MOST_GROUPS)
        self._seen: dict[Hashable, int] = {}

    def _empty(self) -> list["array[int]"]:
        return [array("Q", bytes(8 * self._method.slots)) for _ in self._orders]

    def propose(self, texts: Sequence[DraftText], most: int) -> list[Draft]:
        """Return a chain of tokens for each text."""
        return [self._draft(text, most) for text in texts]

    def read(self, text: DraftText) -> None:
        """Take in a text."""
        self._read(text)

    def finish(self, text: DraftText) -> None:
        """Read an answer to its end."""
        self._read(text)
        self._seen.pop(text.key, None)

    def _read(self, text: DraftText) -> list["array[int]"]:
        tables = self._tables.of(text.group)
        tokens, longest = text.tokens, self._method.longest
        for at in range(self._seen.get(text.key, 1), len(tokens)):
            window = tokens[max(0, at - longest) : at]
            for table, order in zip(tables, self._orders, strict=True):
                if order <= at:
                    slot, key = self._place(window[len(window) - order :])
                    table[slot] = key | (tokens[at] + 1)
        self._seen[text.key] = len(tokens)
        return tables

    def _place(self, window: Sequence[int]) -> tuple[int, int]:
        hashed = 0
        for token in window:
            hashed = ((hashed ^ (token + 1)) * _MIX) & _WORD
            hashed ^= hashed >> _SHIFT
        return hashed % self._method.slots, (hashed >> _SHIFT & _KEY) << _SHIFT

    def _draft(self, text: DraftText, most: int) -> Draft:
        tables = self._read(text)
        window = list(text.tokens[-self._method.longest :])
        tokens: list[int] = []
        matched = 0
        while len(tokens) < min(most, self._method.most_tokens):
            token, order = self._next(tables, window)
            if token < 0:
                break
            matched = matched or order
            tokens.append(token)
            window = [*window, token][-self._method.longest :]
        chances = [1 - 0.5**matched] * len(tokens)  # no more is known of a slot
        return Draft(tokens, list(range(-1, len(tokens) - 1)), chances, "ngram", matched)

    def _next(self, tables: list["array[int]"], window: list[int]) -> tuple[int, int]:
        """Return the token that came last behind the longest known end, and its length."""
        for table, order in zip(tables, self._orders, strict=True):
            if order > len(window):
                continue
            slot, key = self._place(window[len(window) - order :])
            found = table[slot]
            if found and found >> _SHIFT << _SHIFT == key:
                return (found & _KEY) - 1, order
        return -1, 0
