"""What a drafter is given, and what it gives."""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Draft", "DraftText", "Floats", "Ints", "Law", "Picked"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Law = npt.NDArray[np.float64]
"""[vocab] chances that add up to 1."""


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
    laws: Sequence[Law] = ()
    """What each token was drawn from, where that counts when it is verified: then all run."""


class Picked(NamedTuple):
    """What a drafting model says next."""

    token: int
    chance: float
    law: Law | None


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
    pick: Callable[[Sequence[int], Floats], Picked] | None = None
    """Draws the token behind those drafted so far from a drafting model's logits [vocab]."""
