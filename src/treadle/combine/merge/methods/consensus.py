"""Consensus: task arithmetic without the elements that matter to fewer than two models."""

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, PerModel, Site
from treadle.combine.merge.maths.task_vectors import add_to_base, scale
from treadle.combine.merge.maths.weights import each, spread
from treadle.core.errors import SettingsError
from treadle.core.method import Paper

__all__ = ["Consensus"]


class Consensus(MergeMethod):
    """Sum task vectors, then drop what no model or only one model needs.

    What only one model needs ("selfish" elements) harms the others, and what none needs
    ("catastrophic" ones) all of them. With τ = Σ w_n τ_n, model n needs an element where
    m_n = 1[|w_n τ_n| ≥ λ_n |τ - w_n τ_n|] (its TALL mask), and
    θ = θ_0 + λ τ ∘ 1[Σ m_n ≥ k]. The paper searches λ_n from 0.2 to 0.6 on validation data; 0.4 is
    our default. Sums accumulate in float32.

    Paper: Wang et al., 2024.
    """

    name: ClassVar[str] = "consensus"
    base = "required"
    num_models = (2, None)
    paper = Paper(
        "Localizing Task Information for Improved Model Merging and Compression",
        2024,
        "https://arxiv.org/abs/2405.07813",
    )

    weight: PerModel = (1.0,)
    """Weight of each model's task vector."""
    mask_lambda: PerModel = (0.4,)
    """λ_n: how large an element of a model must be beside the sum of the others' to be needed."""
    num_needing: int = Field(default=2, ge=1)
    """k: an element stays if at least so many models need it."""
    lambda_: float = Field(default=1.0, alias="lambda")
    """Factor of the merged task vector."""

    def merge(self, chunk: Chunk, site: Site, known: Any) -> Floats:
        """Return the base plus the part of the sum that enough models need."""
        deltas = chunk.deltas()
        if self.num_needing > len(deltas):
            raise SettingsError(
                f"consensus keeps what {self.num_needing} models need, but only {len(deltas)} are "
                f"merged; lower num_needing."
            )
        scale(deltas, each(self.weight, len(deltas)))
        total = deltas.sum(axis=0)
        needing = np.zeros(total.shape, np.uint8)
        for row, mask_lambda in zip(deltas, spread(self.mask_lambda, len(deltas)), strict=True):
            others = np.abs(total - row)
            others *= np.float32(mask_lambda)
            needing += (np.abs(row, out=row) >= others).view(np.uint8)
        total *= needing >= self.num_needing
        return add_to_base(chunk, total, self.lambda_)
