"""Fisher merging: each weight is averaged by how much each model's own data depends on it."""

from typing import Any, ClassVar

import numpy as np

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, PerModel, Site
from treadle.combine.merge.maths.weights import each
from treadle.core.method import Paper

__all__ = ["Fisher"]


class Fisher(MergeMethod):
    """Average each weight by its importance to each model's own task.

    A model insists on a weight as far as its loss would change with it, which the diagonal of its
    Fisher information measures. θ = Σ w_n F_n θ_n / Σ w_n F_n, with F_n the mean squared gradient
    over windows of the model's own text, plus a floor, so that what no model uses is averaged
    plainly. Where the paper samples labels from the model, the text's own tokens stand (the
    empirical Fisher).

    Paper: Matena and Raffel, 2022, equation 4.
    """

    name: ClassVar[str] = "fisher"
    paper = Paper(
        "Merging Models with Fisher-Weighted Averaging", 2022, "https://arxiv.org/abs/2111.09832"
    )
    needs = "importance"

    weight: PerModel = (1.0,)
    """Weight of each model."""
    floor: float = 1e-10
    """Least importance of a weight."""

    def merge(self, chunk: Chunk, site: Site, known: Any) -> Floats:
        """Return the weighted mean of a run."""
        weights = each(self.weight, len(chunk.models))
        merged = np.zeros(chunk.models.shape[1], np.float32)
        total = np.zeros_like(merged)
        importance = np.empty_like(merged)
        for row, weight, knowledge in zip(chunk.models, weights, site.knowledge, strict=True):
            knowledge.importance(chunk.first, importance)
            importance += np.float32(self.floor)
            importance *= weight
            total += importance
            row *= importance
            merged += row
        merged /= total
        return merged
