"""Best single: one model for all."""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from treadle.combine.route.base import Learned, RouteData, RouteMethod
from treadle.combine.route.maths.averages import means
from treadle.core.method import Control
from treadle.runtime.routed.queries.scorers import ConstantScores

__all__ = ["BestSingle"]


class BestSingle(RouteMethod):
    """Send everything to the model that is worth most on average: no routing at all."""

    name: ClassVar[str] = "best_single"
    reads_vectors: ClassVar[bool] = False
    paper = Control("The one model that is best on the training questions.")

    def learn(self, data: RouteData, seed: int) -> Iterator[Learned]:
        """Yield the router."""
        yield Learned(ConstantScores(means(data.worth).astype(np.float32)))
