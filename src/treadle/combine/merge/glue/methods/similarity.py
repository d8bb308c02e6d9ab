"""Similarity: what joins a merge next is what is most, or least, like it."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from treadle.combine.merge.glue.base import ModelPool, Search, Weights
from treadle.combine.merge.glue.greedy import evenly, grown, nearest_first, running_mean
from treadle.core.method import Paper

__all__ = ["Similarity"]


class Similarity(Search):
    """Take models into a merge in an order that follows it: the most, or least, alike next.

    After every step the models that are left are ordered anew by the cosine of their weights with
    the merge. As with the other orders, what makes it worse is dropped for good.

    Paper: Zhao et al., 2024, heuristic strategy by similarity.
    """

    name: ClassVar[str] = "similarity"
    paper = Paper(
        "Model-GLUE: Democratized LLM Scaling for A Large Model Zoo in the Wild",
        2024,
        "https://arxiv.org/abs/2410.05357",
    )

    next: Literal["alike", "unlike"] = "alike"
    """Who is tried next: whoever is most like the merge so far, or least."""
    grid: Annotated[int, Field(ge=0, le=99)] = 9
    """Weights that are tried for each candidate, as in coefficient; 0 is the running mean, as in
    average."""

    def search(self, pool: ModelPool) -> Weights:
        """Return the weights."""
        shares = evenly(self.grid) if self.grid else running_mean
        return grown(pool, nearest_first(pool, self.next), shares)
