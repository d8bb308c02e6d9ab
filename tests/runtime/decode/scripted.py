"""Controllers that do anything, and what a branch of the echo model must be told; not a test."""

import random
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from runtime.engines import SHAPE, next_token
from runtime.kept import kept_sets
from treadle.core.method import Control
from treadle.runtime.decode.actions import Action, Append, Branch, Child, Finish, Prune
from treadle.runtime.decode.base import Controller, Surroundings, TreeWalk
from treadle.runtime.decode.tree import TokenTree
from treadle.runtime.evict.keeping import Keeping


def said_after(tokens: Sequence[int], num_prompt: int, keep: Keeping | None) -> int:
    """What the echo model says after a text."""
    if keep is None:
        return next_token(tokens)
    seen = kept_sets(keep, SHAPE.kv_heads, len(tokens), num_prompt)[-1]
    return next_token([x for own in seen for x in (*(tokens[p] for p in own), len(own))])


class Scripted(Controller):
    """Do by chance whatever is allowed, and check that each branch is told what is right."""

    name: ClassVar[str] = "scripted"
    paper = Control("whatever a controller may do")

    seed: int = 0
    keep: object = None
    most: int = 6

    def start(self, around: Surroundings) -> TreeWalk:
        return ScriptedWalk(self)


class Hasty(Scripted):
    """The same, asked for each leaf as soon as it can be."""

    name: ClassVar[str] = "hasty"
    waits: ClassVar[bool] = False


class ScriptedWalk(TreeWalk):
    def __init__(self, settings: Scripted) -> None:
        self._settings = settings

    def step(self, tree: TokenTree, logits: Mapping[int, np.ndarray]) -> list[Action]:
        found = []
        for leaf, values in logits.items():
            text, node = tree.text(leaf), tree.node(leaf)
            assert len(text) == node.end
            right = said_after(text, tree.num_prompt, self._settings.keep)
            assert int(values.argmax()) == right, f"leaf {leaf} with {text} was told wrongly"
            draw = random.Random(f"{self._settings.seed} {node.key} {node.end}")
            found.append(self._action(leaf, right, draw, len(tree.leaves())))
        moved = [action for action in found if action is not None]
        first = next(iter(logits))
        return moved or [Append(first, [1])]

    def _action(self, leaf: int, right: int, draw: random.Random, width: int) -> Action | None:
        what = draw.random()
        if what < 0.1:
            return None  # let it wait
        if what < 0.55 and width < self._settings.most:
            starts = [[right], [draw.randrange(9)], [2, draw.randrange(9), 3]][: draw.randint(1, 3)]
            ends = [draw.random() < 0.1 for _ in starts]
            return Branch(
                leaf, [Child(s, is_finished=e) for s, e in zip(starts, ends, strict=True)]
            )
        if what < 0.65:
            return Append(leaf, [draw.randrange(9), right])
        if what < 0.7:
            return Prune(leaf)
        if what < 0.74:
            return Finish(leaf, [] if draw.random() < 0.5 else [right], score=1.0)
        return Append(leaf, [right])
