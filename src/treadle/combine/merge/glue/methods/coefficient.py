"""Coefficient: models join a merge with the weight, of a grid, that scores best."""

from typing import Annotated, ClassVar

from pydantic import Field

from treadle.combine.merge.glue.base import ModelPool, Search, Weights
from treadle.combine.merge.glue.greedy import by_score, evenly, grown
from treadle.core.method import Paper

__all__ = ["Coefficient"]


class Coefficient(Search):
    """Take models into a merge, the best ones first, each with the best weight of a grid.

    The merge m and a candidate c become a m + (1 - a) c with the best a of 1/(n+1) ... n/(n+1), n
    the size of the grid. What makes it worse with every a is dropped for good. It costs n
    evaluations a model.

    Paper: Zhao et al., 2024, heuristic strategy with coefficients. Their code keeps the grid's last
    a; here the best one counts.
    """

    name: ClassVar[str] = "coefficient"
    paper = Paper(
        "Model-GLUE: Democratized LLM Scaling for A Large Model Zoo in the Wild",
        2024,
        "https://arxiv.org/abs/2410.05357",
    )

    grid: Annotated[int, Field(ge=1, le=99)] = 9
    """Weights that are tried for each candidate; 9 are 0.1 to 0.9."""

    def search(self, pool: ModelPool) -> Weights:
        """Return the weights."""
        return grown(pool, by_score(pool), evenly(self.grid))
