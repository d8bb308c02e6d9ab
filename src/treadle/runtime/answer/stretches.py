"""Texts cut where they part, so that what several have in common is computed once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from treadle.model.rope import RopeLengths
from treadle.runtime.executor import Floats

__all__ = ["Stretch", "stretches_of"]

_LEAST_SHARED = 4
"""Tokens from which on a common start is shared: a copy of the page in which texts part costs about
as much as one token."""


@dataclass(eq=False)
class Stretch:
    """Tokens that follow each other in one text, or in all that begin alike."""

    row: int
    """A text in which they stand."""
    begin: int
    stop: int
    """They are its tokens [begin, stop)."""
    parent: "Stretch | None"
    """What stands before them."""
    children: "list[Stretch]" = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    """The texts that end with them."""
    asked: int = 0
    """The first token of the text from which on one of those that begin so asks how likely they
    are."""
    log_probs: Floats = field(default_factory=lambda: np.empty(0, np.float32))
    """[stop - begin] of each token after all before it; that of a text's first token is 0."""
    pages: list[int] = field(default_factory=list)
    """What is held of the text up to `num_done`."""
    num_done: int = 0
    """Tokens from the start of the text whose keys and values stand in `pages`."""
    num_waiting: int = 0
    """Children that have yet to take what is held."""

    @property
    def last(self) -> int:
        """Up to where the model must run: not over a token behind which nothing is asked."""
        return self.stop if self.children else self.stop - 1

    @property
    def has_rows(self) -> bool:
        """Whether the model must run for it at all."""
        return self.last > self.begin

    def cut(self, at: int) -> None:
        """End before token `at`; what stood from there on becomes its only child."""
        rest = Stretch(self.row, at, self.stop, self, self.children, self.ends)
        for child in rest.children:
            child.parent = rest
        self.stop, self.children, self.ends = at, [rest], []


def stretches_of(
    rows: Sequence[Sequence[int]], firsts: Sequence[int], lengths: RopeLengths
) -> list[Stretch]:
    """Return the stretches of all texts, each before its children.

    Texts whose positions turn by other factors share nothing.

    Args:
        rows: The texts.
        firsts: The first token of each whose likelihood is asked for.
        lengths: How rotary factors follow from the length of a text.
    """
    arrays = [np.asarray(row, np.int32) for row in rows]
    regimes = [lengths.regime(len(row) - 1) for row in rows]
    order = sorted(range(len(rows)), key=lambda number: (regimes[number], rows[number]))
    roots: list[Stretch] = []
    path: list[Stretch] = []  # from the root to the end of the text before
    for before, number in zip([None, *order], order, strict=False):
        is_alike = before is not None and regimes[before] == regimes[number]
        depth = _shared(arrays[before], arrays[number]) if is_alike and before is not None else 0
        depth = depth if depth >= _LEAST_SHARED else 0
        while path and path[-1].begin >= depth:
            path.pop()
        if path and path[-1].stop > depth:
            path[-1].cut(depth)
        if path and depth == len(rows[number]):
            path[-1].ends.append(number)
            continue
        parent = path[-1] if path else None
        path.append(Stretch(number, depth, len(rows[number]), parent, ends=[number]))
        (roots if parent is None else parent.children).append(path[-1])
    return _all(roots, firsts)


def _all(roots: list[Stretch], firsts: Sequence[int]) -> list[Stretch]:
    found: list[Stretch] = []
    waiting = roots[::-1]
    while waiting:
        found.append(waiting.pop())
        found[-1].log_probs = np.zeros(found[-1].stop - found[-1].begin, np.float32)
        waiting += found[-1].children[::-1]
    for stretch in found[::-1]:  # children before their parents
        own = [firsts[number] for number in stretch.ends]
        stretch.asked = min([*own, *(child.asked for child in stretch.children)])
    return found


def _shared(left: np.ndarray, right: np.ndarray) -> int:
    """Return how many tokens two texts have in common at their start."""
    count = min(len(left), len(right))
    differing = np.flatnonzero(left[:count] != right[:count])
    return int(differing[0]) if len(differing) else count
