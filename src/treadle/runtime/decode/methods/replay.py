"""Let a tree grow as it was recorded."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from treadle.core.method import Paper
from treadle.runtime.decode.actions import Action, Append, Branch, Child, Finish
from treadle.runtime.decode.base import Controller, Floats, Surroundings, TreeWalk
from treadle.runtime.decode.chance import draw_distinct
from treadle.runtime.decode.recorded import RecordedNode
from treadle.runtime.decode.tree import TokenTree

__all__ = ["Replay"]

_ROOT = -1


class Replay(Controller):
    """Grow a recorded tree: which node has how many tokens, and what follows it.

    Section 4 measures decoding of trees by records of when branches fork and end, so that every
    way of computing them does the same work. Tokens that were recorded are taken; else a branch
    goes on with the most probable token, and the i-th branch of a fork begins with the i-th most
    probable one. A token that ends a text is like any other.

    Paper: DeFT: Decoding with Flash Tree-Attention, Yao et al., 2025.
    """

    name: ClassVar[str] = "replay"
    paper = Paper(
        "DeFT: Decoding with Flash Tree-Attention for Efficient Tree-structured LLM Inference",
        2025,
        "https://arxiv.org/abs/2404.00242",
    )
    waits: ClassVar[bool] = False

    nodes: Annotated[tuple[RecordedNode, ...], Field(min_length=1)]
    """Each with its `parent` (its place in this list, before the node itself; null: the prompt),
    its `num_tokens`, and perhaps its `tokens`."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        for place, node in enumerate(self.nodes):
            if node.parent is not None and node.parent >= place:
                raise ValueError(f"node {place} has the parent {node.parent}; give one before it")
            if node.tokens is not None and len(node.tokens) != node.num_tokens:
                raise ValueError(f"node {place} has {len(node.tokens)} tokens, and says otherwise")
        return self

    @property
    def num_tokens(self) -> int:
        """One more than the longest branch has, so that its last token runs like all others."""
        longest: list[int] = []
        for node in self.nodes:
            before = 0 if node.parent is None else longest[node.parent]
            longest.append(before + node.num_tokens)
        return max(longest) + 1

    def unused(self, has_scorer: bool, has_extract: bool) -> str | None:
        """Return what has no effect here."""
        return "scorer" if has_scorer else "extract" if has_extract else None

    def start(self, around: Surroundings) -> TreeWalk:
        """Return a new search."""
        return _ReplayWalk(self.nodes)


class _ReplayWalk(TreeWalk):
    def __init__(self, nodes: tuple[RecordedNode, ...]) -> None:
        self._nodes = nodes
        self._children: dict[int, list[int]] = {_ROOT: []}
        for place, node in enumerate(nodes):
            self._children[place] = []
            self._children[_ROOT if node.parent is None else node.parent].append(place)

    def step(self, tree: TokenTree, logits: Mapping[int, Floats]) -> list[Action]:
        return [self._following(tree, leaf, values) for leaf, values in logits.items()]

    def _following(self, tree: TokenTree, leaf: int, values: Floats) -> Action:
        node = tree.node(leaf)
        place = _ROOT if node.parent is None else node.tag
        done = node.end - node.branched
        if place != _ROOT and done < self._nodes[place].num_tokens:
            return Append(leaf, self._tokens(place, done) or [int(values.argmax())])
        children = self._children[place]
        if not children:
            return Finish(leaf)
        likely = draw_distinct(values, node.key, node.end, len(children), 0)
        starts = [
            Child(self._tokens(child, 0) or [likely[index % len(likely)]], tag=child)
            for index, child in enumerate(children)
        ]
        return Branch(leaf, starts)

    def _tokens(self, place: int, done: int) -> list[int]:
        tokens = self._nodes[place].tokens
        return [] if tokens is None else list(tokens[done : done + 1])
