"""Isotropic merging: the summed task matrix with all its singular values made equal."""

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, Site, Unit
from treadle.combine.merge.maths.task_vectors import add_to_base, mean_change, weighted_sum
from treadle.core.method import Paper

__all__ = ["Isotropic"]


class Isotropic(MergeMethod):
    """Sum task matrices, then flatten the spectrum, so that no task's directions drown another's.

    With Σ_n Δ_n = U diag(σ) Vᵀ, θ = θ_0 + λ σ̄ U Vᵀ where σ̄ is the mean of σ (Iso-C). Tensors of
    other than two dimensions get the mean of the task vectors, as in the authors' code. In
    directions in which no model moved, U and V are arbitrary and gain σ̄ all the same: that is the
    paper's. The tensor is worked on as a whole, in float32.

    Paper: Marczak et al., 2025 (Iso-C).
    """

    name: ClassVar[str] = "isotropic"
    base = "required"
    unit: ClassVar[Unit] = "tensor"
    paper = Paper(
        "No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces",
        2025,
        "https://arxiv.org/abs/2502.04959",
    )

    lambda_: float = Field(default=1.0, alias="lambda")
    """Factor of the merged task vector."""

    def merge(self, chunk: Chunk, site: Site, known: Any) -> Floats:
        """Return the base plus the flattened sum of task matrices."""
        deltas = chunk.deltas()
        if len(site.shape) != 2:
            return mean_change(chunk, deltas, self.lambda_)
        total = weighted_sum(deltas, np.ones(len(deltas), np.float32)).reshape(site.shape)
        left, strength, right = np.linalg.svd(total, full_matrices=False)
        merged: Floats = left @ right
        merged *= strength.mean()
        return add_to_base(chunk, merged.reshape(-1), self.lambda_)
