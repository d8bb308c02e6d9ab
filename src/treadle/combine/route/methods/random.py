"""Random: every model answers as often."""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from treadle.combine.route.base import Learned, RouteData, RouteMethod
from treadle.core.method import Control
from treadle.runtime.routed.queries.scorers import DrawnScores

__all__ = ["RandomRoute"]


class RandomRoute(RouteMethod):
    """Draw a model for each query, by a hash of the text: what every router has to beat.

    Its expected score is the mean of all scores.
    """

    name: ClassVar[str] = "random"
    reads_vectors: ClassVar[bool] = False
    paper = Control("A model that is drawn, whatever is asked.")

    def learn(self, data: RouteData, seed: int) -> Iterator[Learned]:
        """Yield the router; it looks at no score."""
        yield Learned(DrawnScores(np.zeros(data.num_models, np.float32), seed))
