"""Tree of thoughts: think in steps, look at several at once, go on with the best."""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from treadle.core.method import Paper
from treadle.runtime.decode.actions import Action, Append, Finish, Prune
from treadle.runtime.decode.base import Controller, Floats, Surroundings, TreeWalk
from treadle.runtime.decode.sampled import TokenDraws, candidate, likelihood
from treadle.runtime.decode.tree import TokenNode, TokenTree
from treadle.runtime.decode.worth import checked

__all__ = ["TreeOfThoughts"]

_WORDS = {"sure": 20.0, "likely": 1.0, "impossible": 0.001}
"""What the authors' program gives the words of the game of 24."""


class TreeOfThoughts(Controller):
    """Let every kept branch think `thoughts` next steps, and keep the best `width` of all.

    Algorithm 1 (breadth-first): S_t = the b best of {[s, z] : s in S_(t-1), z drawn k times} by
    V(s). V is the scorer that the caller gives; or the model itself is asked with `ask`, and V is
    the mean of what its possible words are worth, weighted by their probabilities (the paper draws
    a few answers); or, with neither, the mean log-probability of the branch's tokens. A thought
    ends with a stop string or after `thought_tokens`. We differ in that no two thoughts of a branch
    begin with the same token, unless `is_distinct` is off.

    Paper: Tree of Thoughts: Deliberate Problem Solving with Large Language Models, Yao et al.,
    2023.
    """

    name: ClassVar[str] = "tree_of_thoughts"
    paper = Paper(
        "Tree of Thoughts: Deliberate Problem Solving with Large Language Models",
        2023,
        "https://arxiv.org/abs/2305.10601",
    )

    depth: Annotated[int, Field(ge=1)] = 3
    """Thoughts of an answer."""
    thoughts: Annotated[int, Field(ge=1)] = 5
    """Next thoughts of each kept branch (k)."""
    width: Annotated[int, Field(ge=1)] = 5
    """Branches that are kept after each thought (b)."""
    thought_tokens: Annotated[int, Field(ge=1)] = 64
    """Most tokens of a thought."""
    stop: tuple[str, ...] = ("\n",)
    """Strings with which a thought ends; they stay part of it."""
    temperature: Annotated[float, Field(ge=0.0, le=1e6)] = 0.7
    """Divides the logits."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Draw among the most probable tokens that together reach this probability."""
    is_distinct: bool = True
    """Whether no two thoughts of a branch begin with the same token."""
    ask: str = ""
    """What the model is asked about a branch; its text takes the place of {text}."""
    words: dict[str, float] = _WORDS
    """Possible answers to `ask`, and what each is worth."""

    @model_validator(mode="after")
    def _check_question(self) -> Self:
        if self.ask and "{text}" not in self.ask:
            raise ValueError("ask has no {text} in it; say where the branch's text stands")
        if not self.words or not all(self.words):
            raise ValueError("words has none, or an empty one; give the possible answers")
        if not all(map(math.isfinite, self.words.values())):
            raise ValueError("words has a worth that is no number; give each a finite one")
        return self

    def unused(self, has_scorer: bool, has_extract: bool) -> str | None:
        """Return what has no effect here."""
        return "scorer" if has_scorer and self.ask else "extract" if has_extract else None

    def start(self, around: Surroundings) -> TreeWalk:
        """Return a new search."""
        return _ThinkingWalk(self, around)


class _ThinkingWalk(TreeWalk):
    def __init__(self, settings: TreeOfThoughts, around: Surroundings) -> None:
        self._settings, self._around = settings, around
        self._drawing = TokenDraws(
            around, settings.temperature, settings.top_p, settings.is_distinct
        )
        self._level = 0

    def step(self, tree: TokenTree, logits: Mapping[int, Floats]) -> list[Action]:
        growing = [leaf for leaf in logits if not self._is_whole(tree.node(leaf))]
        if growing:
            return [self._grown(tree.node(leaf), logits[leaf]) for leaf in growing]
        kept = self._best(tree, list(logits))
        found: list[Action] = [Prune(leaf) for leaf in logits if leaf not in kept]
        self._level += 1
        if self._level > self._settings.depth:
            return [*found, *(Finish(leaf) for leaf in kept)]
        for leaf in kept:
            node, count = tree.node(leaf), self._settings.thoughts
            found.append(self._drawing.starts(node, logits[leaf], count, self._level))
        return found

    def rank(self, tree: TokenTree) -> list[int]:
        """Score what ended within a thought, too."""
        late = [node.id for node in tree.finished() if node.score is None]
        self._score(tree, late)
        return tree.ranked()

    def _is_whole(self, node: TokenNode) -> bool:
        """Say whether a leaf has all of its thought; the prompt is the thought of level 0."""
        own = node.tokens[node.branched - node.first :]
        is_long = len(own) >= self._settings.thought_tokens
        return node.parent is None or is_long or self._drawing.stops(own, self._settings.stop)

    def _grown(self, node: TokenNode, logits: Floats) -> Action:
        token = self._drawing.following(node, logits)
        is_end = token in self._around.end_tokens
        return Finish(node.id, (token,)) if is_end else Append(node.id, (token,))

    def _best(self, tree: TokenTree, leaves: list[int]) -> list[int]:
        if self._level == 0:
            return leaves
        self._score(tree, leaves)
        order = sorted(leaves, key=lambda leaf: (-(tree.node(leaf).score or 0.0), leaf))
        return sorted(order[: self._settings.width])

    def _score(self, tree: TokenTree, leaves: list[int]) -> None:
        if not leaves:
            return
        candidates = [candidate(tree, leaf, self._around) for leaf in leaves]
        if self._settings.ask:
            scores = [self._asked(one.text()) for one in candidates]
        elif self._around.worth is not None:
            scores = checked(self._around.worth, candidates)
        else:
            scores = [likelihood(tree, leaf) for leaf in leaves]
        for leaf, score in zip(leaves, scores, strict=True):
            tree.node(leaf).score = score

    def _asked(self, text: str) -> float:
        """Return what the model's answer about a branch is worth, on average."""
        words = self._settings.words
        chances = self._around.chance_of(self._settings.ask.replace("{text}", text), list(words))
        return sum(p * value for p, value in zip(chances, words.values(), strict=True))
