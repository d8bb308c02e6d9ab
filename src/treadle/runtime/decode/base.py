"""The protocol of a controller: logits of leaves go in, what becomes of the leaves comes out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.method import Method
from treadle.runtime.decode.actions import Action
from treadle.runtime.decode.candidate import Candidate, Worth
from treadle.runtime.decode.tree import TokenTree

__all__ = ["Candidate", "Controller", "Floats", "Surroundings", "TreeWalk", "Worth"]

Floats = npt.NDArray[np.float32]


class Surroundings(NamedTuple):
    """What a controller may know of its search."""

    end_tokens: frozenset[int]
    """They end a branch."""
    max_tokens: int
    """Tokens behind the prompt, with which a branch ends in any case."""
    seed: int
    text_of: Callable[[Sequence[int]], str]
    worth: Worth | None
    """By the scorer that the caller gave; None without one."""
    chance_of: Callable[[str, Sequence[str]], list[float]]
    """Returns how likely the model finds each of some answers to a question, in all 1."""
    extract: Callable[[str], str | None] | None
    """Finds the answer in a text, where the caller says how."""


class TreeWalk(ABC):
    """One search under way: all that changes while a controller's tree grows."""

    @abstractmethod
    def step(self, tree: TokenTree, logits: Mapping[int, Floats]) -> list[Action]:
        """Return what becomes of the leaves.

        Args:
            tree: As it is now; it is not for the controller to change.
            logits: [vocab] of every leaf that may go on; one that is not moved comes again.
        """

    def rank(self, tree: TokenTree) -> list[int]:
        """Return the finished branches, best first; called once, at the end, and may score them."""
        return tree.ranked()


class Controller(Method, ABC):
    """Settings of a search; what changes while it runs is in its `TreeWalk`."""

    @property
    def num_tokens(self) -> int:
        """The most tokens of a branch, unless the caller says how many."""
        return 64

    waits: ClassVar[bool] = True
    """Whether it is asked only once all unfinished leaves have their logits."""

    def unused(self, has_scorer: bool, has_extract: bool) -> str | None:
        """Return what the caller gave that has no effect: "scorer" or "extract"."""
        return None

    @abstractmethod
    def start(self, around: Surroundings) -> TreeWalk:
        """Return a new search."""
