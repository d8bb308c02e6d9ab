"""Draw several answers and take the best."""

from typing import Annotated, ClassVar

from pydantic import Field

from treadle.core.method import Paper
from treadle.runtime.decode.base import Controller, Surroundings, TreeWalk
from treadle.runtime.decode.sampled import SampledWalk, TokenDraws, candidate, likelihood
from treadle.runtime.decode.tree import TokenTree
from treadle.runtime.decode.worth import checked

__all__ = ["BestOf"]


class BestOf(Controller):
    """Draw n answers and take the one that a scorer finds best.

    Section 3.1, best-of-n: argmax over y_1, ..., y_n drawn from p(y | x) of r(x, y). Without a
    scorer r is the mean log-probability of the answer's tokens. What a random one of them is worth
    is the mean of their scores, which stands beside the answer. We differ in that no two answers
    begin with the same token, unless `is_distinct` is off.

    Paper: WebGPT: Browser-assisted question-answering with human feedback, Nakano et al., 2021.
    """

    name: ClassVar[str] = "best_of"
    paper = Paper(
        "WebGPT: Browser-assisted question-answering with human feedback",
        2021,
        "https://arxiv.org/abs/2112.09332",
    )
    waits: ClassVar[bool] = False

    n: Annotated[int, Field(ge=1)] = 4
    """Answers that are drawn."""
    temperature: Annotated[float, Field(ge=0.0, le=1e6)] = 1.0
    """Divides the logits; at 0 the answers begin with the most probable tokens, and go on so."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Draw among the most probable tokens that together reach this probability."""
    stop: tuple[str, ...] = ()
    """Strings with which an answer ends; they stay part of it."""
    is_distinct: bool = True
    """Whether no two answers begin with the same token; fewer come where there are fewer."""

    def unused(self, has_scorer: bool, has_extract: bool) -> str | None:
        """Return what has no effect here."""
        return "extract" if has_extract else None

    def start(self, around: Surroundings) -> TreeWalk:
        """Return a new search."""
        drawing = TokenDraws(around, self.temperature, self.top_p, self.is_distinct, self.stop)
        return _BestOfWalk(drawing, self.n)


class _BestOfWalk(SampledWalk):
    def rank(self, tree: TokenTree) -> list[int]:
        nodes, around = tree.finished(), self._drawing.around
        if around.worth is None:
            scores = [likelihood(tree, node.id) for node in nodes]
        else:
            scores = checked(around.worth, [candidate(tree, node.id, around) for node in nodes])
        for node, score in zip(nodes, scores, strict=True):
            node.score = score
        return tree.ranked()
