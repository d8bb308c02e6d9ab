"""Branches whose worth is asked, and who says it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

__all__ = ["Candidate", "Worth"]


class Candidate(NamedTuple):
    """A branch whose worth is asked."""

    prompt_tokens: tuple[int, ...]
    tokens: tuple[int, ...]
    """Those behind the prompt."""
    text: Callable[[], str]
    """Returns the text of these, where the model has a tokenizer."""


Worth = Callable[[Sequence[Candidate]], list[float]]
"""Returns what each of several branches is worth; more is better."""
