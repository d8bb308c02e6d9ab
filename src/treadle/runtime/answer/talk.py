"""What makes talking with a small model bearable: how it samples, and an end where it goes round.

A small model that repeats itself goes on doing so until its context is full. `RepeatWatch` tells,
so that whoever reads the answer can stop it. It reads text and not tokens, for it watches the
answers of any server.
"""

from types import MappingProxyType

__all__ = ["TALK", "RepeatWatch"]

TALK = MappingProxyType(
    {"temperature": 0.7, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.05}
)
"""Sampling for conversations; docs/runtime.md says what it was tried on.

A frequency penalty ends even more answers of a small model, but it grows with the answer: it would
spoil the code that a larger model writes.
"""
_LEAST_CHARACTERS = 240
"""Of the copies together: short things (cells of a table, zeros of a list) may stand side by side
for a while."""
_LEAST_COPIES = 3
_MOST_CHARACTERS = 3000
"""Of the end that is looked at: three copies of a long paragraph."""
_EVERY_CHARACTERS = 24
"""How much comes between two looks."""


class RepeatWatch:
    """Takes in a text and says when its end is one run of characters over and over."""

    def __init__(self) -> None:
        self.text = ""
        """All that came."""
        self._num_looked_at = 0

    def feed(self, piece: str) -> bool:
        """Take in a piece; say whether the text has begun to repeat itself."""
        self.text += piece
        if len(self.text) < self._num_looked_at + _EVERY_CHARACTERS:
            return False
        self._num_looked_at = len(self.text)
        return self._run() is not None

    def once(self) -> str:
        """Return the text with what repeats itself at its end told once."""
        found = self._run()
        if found is None:
            return self.text
        length, period = found
        begin = len(self.text) - length
        while begin and self.text[begin - 1] == self.text[begin - 1 + period]:
            begin -= 1
        return self.text[: begin + period]

    def _run(self) -> tuple[int, int] | None:
        """Return the length of the longest run at the end, and of what it repeats.

        Read backwards, the end of the text has at each length a longest start that is its end, too
        (Knuth, Morris and Pratt's table); what it is shorter by is the period.
        """
        end = self.text[-_MOST_CHARACTERS:][::-1]
        borders, border = [0] * len(end), 0
        found: tuple[int, int] | None = None
        for place in range(1, len(end)):
            while border and end[place] != end[border]:
                border = borders[border - 1]
            border += end[place] == end[border]
            borders[place] = border
            length, period = place + 1, place + 1 - border
            if length >= max(_LEAST_CHARACTERS, _LEAST_COPIES * period):
                found = length, period
        return found
