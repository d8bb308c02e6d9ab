"""Successors that the model itself held for likely when a token came last."""

import heapq
from collections.abc import Hashable, Sequence
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from treadle.core.method import Paper
from treadle.runtime.draft.base import Drafter, Drafting, DraftTarget
from treadle.runtime.draft.best import best_tokens
from treadle.runtime.draft.pasts import GroupTables
from treadle.runtime.draft.proposal import Draft, DraftText, Floats, Ints

__all__ = ["Recycling"]

Table = npt.NDArray[np.int32]
_NUM_SUCCESSORS = 8
_CHANCES = (0.42, 0.14, 0.08, 0.055, 0.04, 0.03, 0.025, 0.02)
"""Of a successor by its rank, until others are observed: they shape the tree. Reconstructed so that
80 nodes have about the paper's widths; what is drafted follows what is observed."""
_MOST_GROUPS = 8


class Recycling(Drafter):
    """Draft a fixed tree of the likeliest successors that were last seen behind each token.

    Section 3: a table [vocab, 8] has the best 8 tokens of the latest logits behind every token; all
    verified rows write to it, those of refused tokens, too, and the tree's nodes are ranks in it.
    We differ in that the tree is grown best first by the chances of ranks instead of drawn by hand,
    and a successor that was never seen ends its branch.

    Paper: Turning Trash into Treasure, Luo et al., 2024.
    """

    name: ClassVar[str] = "recycling"
    paper = Paper(
        "Turning Trash into Treasure: Accelerating Inference of Large Language Models with Token "
        "Recycling",
        2024,
        "https://arxiv.org/abs/2408.08696",
    )

    nodes: Annotated[int, Field(ge=1, le=256)] = 24
    """Of the tree, of which a step takes as many as pay. The paper's has 80, for accelerators on
    which a row costs nothing."""

    def open(self, target: DraftTarget) -> Drafting:
        """Return what will know the successors of an engine's tokens."""
        return Successors(target.vocab_size, self.nodes)


class Successors(Drafting):
    """The tables of an engine, of each group its own."""

    wants_logits: ClassVar[bool] = True

    def __init__(self, vocab_size: int, nodes: int) -> None:
        self._nodes = _tree(nodes)

        def unknown() -> Table:
            return np.full((vocab_size, _NUM_SUCCESSORS), -1, np.int32)

        self._tables = GroupTables(unknown, _MOST_GROUPS)

    def propose(self, texts: Sequence[DraftText], most: int) -> list[Draft]:
        """Return the tree behind the last token of each text."""
        return [self._draft(self._tables.of(text.group), text.tokens[-1], most) for text in texts]

    def learn(self, group: Hashable, tokens: Ints, logits: Floats) -> None:
        """Note the best successors; of rows of the same token the last one counts."""
        found = best_tokens(logits, _NUM_SUCCESSORS)
        self._tables.of(group)[tokens, : found.shape[1]] = found

    def _draft(self, table: Table, last: int, most: int) -> Draft:
        draft = Draft([], [], [], "recycling", 1)
        rows: dict[int, list[int]] = {-1: table[last].tolist()}
        place: dict[int, int] = {-1: -1}
        for number, (parent, rank) in enumerate(self._nodes):
            if len(draft.tokens) >= most:
                break
            if parent not in place:
                continue
            token = rows[parent][rank]
            if token < 0:
                continue
            place[number] = len(draft.tokens)
            draft.tokens.append(token)
            draft.parents.append(place[parent])
            draft.chances.append(_CHANCES[rank])
            rows[number] = table[token].tolist()
        return draft


def _tree(nodes: int) -> list[tuple[int, int]]:
    """Return parent and rank of each node, best first."""
    found: list[tuple[int, int]] = []
    heap = [(-_CHANCES[0], 0, -1, 0)]
    number = 0
    while len(found) < nodes:
        minus, _, parent, rank = heapq.heappop(heap)
        found.append((parent, rank))
        above = -minus / _CHANCES[rank]
        number += 1
        heapq.heappush(heap, (minus * _CHANCES[0], number, len(found) - 1, 0))
        if rank + 1 < _NUM_SUCCESSORS:
            number += 1
            heapq.heappush(heap, (-above * _CHANCES[rank + 1], number, parent, rank + 1))
    return found
