"""What a controller can do with a leaf."""

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Action", "Append", "Branch", "Child", "Finish", "Prune"]


class Child(NamedTuple):
    """A new branch."""

    tokens: Sequence[int]
    """With which it begins, one at least."""
    is_finished: bool = False
    """Whether it ends with these."""
    score: float | None = None
    tag: int = 0
    """For the controller, who finds it in the tree's node again."""


class Append(NamedTuple):
    """The leaf goes on with these tokens; of several only the last one's logits come."""

    leaf: int
    tokens: Sequence[int]


class Branch(NamedTuple):
    """The leaf goes on in several ways."""

    leaf: int
    children: Sequence[Child]


class Prune(NamedTuple):
    """The leaf, or a finished branch, is given up."""

    leaf: int


class Finish(NamedTuple):
    """The leaf is an answer, perhaps with a few tokens more."""

    leaf: int
    tokens: Sequence[int] = ()
    score: float | None = None
    reason: str = "stop"


Action = Append | Branch | Prune | Finish
