"""Branches that are drawn one token after another, each on its own."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from treadle.runtime.decode.actions import Action, Append, Branch, Child, Finish
from treadle.runtime.decode.base import Candidate, Floats, Surroundings, TreeWalk
from treadle.runtime.decode.chance import draw, draw_distinct
from treadle.runtime.decode.tree import TokenNode, TokenTree

__all__ = ["SampledWalk", "TokenDraws", "candidate", "likelihood"]

_MORE_TOKENS = 4
"""Decoded before a stop string's own: tokenizers join spaces and bytes over tokens."""


class TokenDraws(NamedTuple):
    """How tokens are drawn."""

    around: Surroundings
    temperature: float
    top_p: float
    is_distinct: bool
    """Whether no two branches of a fork begin alike."""
    stop: tuple[str, ...] = ()

    def starts(self, node: TokenNode, logits: Floats, count: int, tag: int = 0) -> Branch:
        """Let a leaf go on in `count` ways; in fewer where the model knows fewer."""
        how = (self.temperature, self.top_p)
        if self.is_distinct:
            tokens = draw_distinct(logits, node.key, node.end, count, *how)
        else:
            # Draws of places that the text never reaches, so that each has a number of its own.
            places = [node.end + (number + 1) * 2**32 for number in range(count)]
            tokens = [draw(logits, node.key, place, *how) for place in places]
        children = [Child([t], is_finished=self.is_end([t]), tag=tag) for t in tokens]
        return Branch(node.id, children)

    def is_end(self, tokens: Sequence[int]) -> bool:
        """Say whether a branch ends with the last of these tokens."""
        return tokens[-1] in self.around.end_tokens or self.stops(tokens, self.stop)

    def following(self, node: TokenNode, logits: Floats) -> int:
        """Return the token that follows a leaf."""
        return draw(logits, node.key, node.end, self.temperature, self.top_p)

    def stops(self, tokens: Sequence[int], stop: Sequence[str]) -> bool:
        """Say whether a text ends with a token that brought one of these strings."""
        if not stop:
            return False
        last = tokens[-max(map(len, stop)) - _MORE_TOKENS :]
        text = self.around.text_of(last)
        return any(string in text for string in stop)


class SampledWalk(TreeWalk):
    """`count` branches from the prompt, each drawn to its own end."""

    def __init__(self, drawing: TokenDraws, count: int) -> None:
        self._drawing, self._count = drawing, count

    def step(self, tree: TokenTree, logits: Mapping[int, Floats]) -> list[Action]:
        """Fork the prompt, then draw the next token of each branch."""
        found: list[Action] = []
        for leaf, values in logits.items():
            node = tree.node(leaf)
            if node.parent is None:
                found.append(self._drawing.starts(node, values, self._count))
                continue
            token = self._drawing.following(node, values)
            is_end = self._drawing.is_end([*node.tokens, token])
            found.append(Finish(leaf, (token,)) if is_end else Append(leaf, (token,)))
        return found


def candidate(tree: TokenTree, number: int, around: Surroundings) -> Candidate:
    """Return a branch as a scorer takes it."""
    text = tree.text(number)
    own = text[tree.num_prompt :]
    return Candidate(tuple(text[: tree.num_prompt]), tuple(own), partial(around.text_of, own))


def likelihood(tree: TokenTree, number: int) -> float:
    """Return the mean log-probability of a branch's tokens behind the prompt."""
    node = tree.node(number)
    total = node.logprob if node.logprob is not None else float("-inf")
    return total / max(1, node.end - tree.num_prompt)
