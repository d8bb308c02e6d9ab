"""TSV: task singular vectors, made orthogonal to each other."""

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, Site, Unit
from treadle.combine.merge.maths.orthonormal import orthonormal
from treadle.combine.merge.maths.task_vectors import add_to_base, mean_change
from treadle.core.method import Paper

__all__ = ["TaskSingularVectors"]


class TaskSingularVectors(MergeMethod):
    """Keep each task matrix's strongest singular vectors, and decorrelate them between tasks.

    Task matrices have low rank, and tasks disturb each other where their singular vectors overlap.
    Of each of N matrices Δ_n = U_n Σ_n V_nᵀ the first r/N of its r components stay (at least one).
    Side by side they are U = [U_1 .. U_N] and V, replaced by the nearest matrices with orthonormal
    columns, U_⊥ = P Qᵀ from U = P D Qᵀ, and θ = θ_0 + λ U_⊥ Σ V_⊥ᵀ. Tensors of other than two
    dimensions get the mean of the task vectors, as in the authors' code. The tensor is worked on as
    a whole, in float32.

    Paper: Gargiulo et al., 2025 (TSV-Merge).
    """

    name: ClassVar[str] = "tsv"
    base = "required"
    unit: ClassVar[Unit] = "tensor"
    paper = Paper(
        "Task Singular Vectors: Reducing Task Interference in Model Merging",
        2025,
        "https://arxiv.org/abs/2412.00081",
    )

    lambda_: float = Field(default=1.0, alias="lambda")
    """Factor of the merged task vector."""

    def merge(self, chunk: Chunk, site: Site, known: Any) -> Floats:
        """Return the base plus the merged task matrix."""
        deltas = chunk.deltas()
        if len(site.shape) != 2:
            return mean_change(chunk, deltas, self.lambda_)
        merged = _merged(deltas.reshape(len(deltas), *site.shape))
        return add_to_base(chunk, merged.reshape(-1), self.lambda_)


def _merged(matrices: Floats) -> Floats:
    num_kept = max(1, min(matrices.shape[1:]) // len(matrices))
    lefts, strengths, rights = [], [], []
    for matrix in matrices:
        left, strength, right = np.linalg.svd(matrix, full_matrices=False)
        lefts.append(left[:, :num_kept])
        strengths.append(strength[:num_kept])
        rights.append(right[:num_kept])
    left, right = orthonormal(np.hstack(lefts)), orthonormal(np.vstack(rights))
    merged: Floats = (left * np.concatenate(strengths)) @ right
    return merged
