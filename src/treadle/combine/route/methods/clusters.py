"""Clusters: who is best among questions of one kind, which nobody named."""

from collections.abc import Iterator
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from treadle.combine.route.base import Doubles, Learned, RouteData, RouteMethod
from treadle.combine.route.maths.averages import group_means
from treadle.combine.route.maths.centroids import k_means
from treadle.core.errors import SettingsError
from treadle.core.method import Paper
from treadle.core.seed import numpy_stream
from treadle.runtime.routed.queries.scorers import ClustersScores

__all__ = ["Avengers"]


class Avengers(RouteMethod):
    """Cluster the training questions, and take the model that is worth most in the query's cluster.

    k-means on vectors of length 1; the mean worth of each model in each cluster. A query goes by
    the mean over its `top_k` nearest clusters, weighted by softmax(-beta distance). With alpha
    below 1 (Avengers-Pro) a cluster's worth is alpha a + (1 - alpha) (1 - c / max c), where a is
    the worth scaled to 0..1 over the models of the cluster, and c their mean cost there.

    Paper: The Avengers: a simple recipe for uniting smaller language models, 2025.
    """

    name: ClassVar[str] = "clusters"
    paper = Paper(
        "The Avengers: A Simple Recipe for Uniting Smaller Language Models to Challenge "
        "Proprietary Giants",
        2025,
        "https://arxiv.org/abs/2505.19797",
    )

    num_clusters: Annotated[int, Field(ge=1)] = 32
    """Of k-means."""
    top_k: Annotated[int, Field(ge=1)] = 1
    """Nearest clusters that are asked."""
    beta: Annotated[float, Field(ge=0)] = 9.0
    """How fast a cluster's weight falls with its distance, where several are asked."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 1.0
    """1 looks at scores alone, 0 at costs alone."""

    def learn(self, data: RouteData, seed: int) -> Iterator[Learned]:
        """Yield the router."""
        count = min(self.num_clusters, len(data.vectors))
        centres, labels = k_means(data.vectors, count, numpy_stream(seed, "clusters"))
        values = group_means(data.worth, labels, len(centres))
        if self.alpha < 1:
            values = self._traded(values, self._costs(data, labels, len(centres)))
        scorer = ClustersScores(centres, values.astype(np.float32), self.top_k, self.beta)
        yield Learned(scorer)

    def _costs(self, data: RouteData, labels: np.ndarray, count: int) -> Doubles:
        if data.cost is None:
            raise SettingsError(
                f"alpha = {self.alpha:g} weighs costs, and the records say none; give each a "
                f"'cost', or leave alpha at 1."
            )
        return group_means(data.cost, labels, count)

    def _traded(self, values: Doubles, costs: Doubles) -> Doubles:
        """Return what models are worth in each cluster, with their costs."""
        low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
        scaled = (values - low) / np.maximum(high - low, 1e-12)
        dearest = np.maximum(costs.max(axis=1, keepdims=True), 1e-12)
        found: Doubles = self.alpha * scaled + (1 - self.alpha) * (1 - costs / dearest)
        return found
