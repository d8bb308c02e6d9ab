"""kNN: what the models got for similar questions."""

from collections.abc import Iterator
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from treadle.combine.route.base import Learned, RouteData, RouteMethod
from treadle.core.method import Paper
from treadle.runtime.routed.queries.scorers import NearestScores

__all__ = ["NearestNeighbours"]


class NearestNeighbours(RouteMethod):
    """Take the model that is worth most on the most similar training questions.

    score_t(q) = sum_i cos(q, i) y_it / sum_i cos(q, i) over the k questions of the largest cosine;
    a model that was not asked a question is left out of its sums. The router carries the vectors
    of all training questions.

    Paper: Rethinking predictive modeling for LLM routing: when simple kNN beats complex learned
    routers, 2025.
    """

    name: ClassVar[str] = "knn"
    paper = Paper(
        "Rethinking Predictive Modeling for LLM Routing: When Simple kNN Beats Complex Learned "
        "Routers",
        2025,
        "https://arxiv.org/abs/2505.12601",
    )

    k: Annotated[int, Field(ge=1)] = 100
    """Questions that are looked at; at most all of them."""

    def learn(self, data: RouteData, seed: int) -> Iterator[Learned]:
        """Yield the router."""
        yield Learned(NearestScores(data.vectors, data.worth.astype(np.float32), self.k))
