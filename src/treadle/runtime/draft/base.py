"""The protocol of a drafter: texts go in, what may follow each comes out."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.method import Method

__all__ = ["Draft", "DraftText", "Drafter", "Drafting"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class Draft(NamedTuple):
    """Tokens that may follow a text: a tree that hangs on the text's last token."""

    tokens: list[int]
    parents: list[int]
    """Place of the token before each; -1: the text's last one. Parents stand before children, and
    no two children of one parent are equal."""
    chances: list[float]
    """How likely the drafter holds each where the token before it is right."""
    source: str = ""
    """Of the drafter's sources."""
    matched: int = 0
    """Tokens at the end of the text that the source had seen before in this order."""


class DraftText(NamedTuple):
    """A text that is being written."""

    key: Hashable
    """The same in every step."""
    tokens: Sequence[int]
    """Never shrinks."""
    num_prompt: int
    group: Hashable
    """Texts of different groups must not learn from each other: it would show in the time that
    their answers take."""


class Drafting(ABC):
    """What a drafter knows in one engine; may be asked and told by one thread at a time."""

    wants_logits: ClassVar[bool] = False
    """Whether `learn` is to be called."""

    @abstractmethod
    def propose(self, texts: Sequence[DraftText], most: int) -> list[Draft]:
        """Return for each text at most `most` tokens that may follow."""

    # Drafters that learn from texts alone have nothing to do here.
    def learn(self, group: Hashable, tokens: Ints, logits: Floats) -> None:  # noqa: B027
        """Learn the logits [rows, vocab] behind tokens [rows], chosen or not."""

    def finish(self, text: DraftText) -> None:  # noqa: B027
        """Learn that a text is written, and forget what was noted for it alone."""


class Drafter(Method, ABC):
    """Guesses what follows. Whatever it proposes changes the time of answers, never the answers."""

    @abstractmethod
    def open(self, vocab_size: int) -> Drafting | None:
        """Return what will know the texts of an engine; None: nothing is to be drafted."""
