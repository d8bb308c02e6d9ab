"""Random weights: the best of many draws."""

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from treadle.combine.merge.glue.base import ModelPool, Search, Weights
from treadle.core.method import Control

__all__ = ["RandomWeights"]


class RandomWeights(Search):
    """Draw weights at random and keep the best: what a search by evolution has to beat.

    Weights are spread evenly over all that add up to 1 (a flat Dirichlet distribution). The best
    single model is among the candidates.
    """

    name: ClassVar[str] = "random_weights"
    paper = Control("Random search; Bergstra and Bengio, 2012, for why it is a fair one.")

    num_candidates: Annotated[int, Field(ge=1)] = 60
    """Draws."""

    def search(self, pool: ModelPool) -> Weights:
        """Return the weights."""
        singles = pool.singles
        start = int(np.argmin(singles))
        best: Weights = np.eye(pool.num_models)[start][None]
        lowest = float(singles[start])
        for drawn in pool.generator.dirichlet(np.ones(pool.num_models), self.num_candidates):
            score = pool.score(drawn[None])
            if score < lowest:
                best, lowest = drawn[None], score
        return best
