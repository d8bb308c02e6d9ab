"""Iso-CTS: what tasks share, and directions of each one's own, all of equal strength."""

from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, Site, Unit
from treadle.combine.merge.maths.orthonormal import orthonormal
from treadle.combine.merge.maths.task_vectors import add_to_base, mean_change
from treadle.core.method import Paper
from treadle.model.facts import EMBEDDINGS

__all__ = ["IsoCts"]


class IsoCts(MergeMethod):
    """Give the weakest directions of the summed task matrix to the tasks, then flatten all.

    The sum of task matrices holds what they share, and its last directions belong to no task; some
    of each task's own stand there instead. Of r directions the first k of Σ Δ_n = U Σ Vᵀ stay. Each
    of N tasks adds the first (r - k) / N of what they leave of it, Δ_n - U_k U_kᵀ Δ_n. Side by side
    they are U and V, replaced by the nearest matrices with orthonormal columns U_⊥ and V_⊥, and
    θ = θ_0 + λ σ̄ U_⊥ V_⊥ᵀ, where σ̄ is the mean of all their singular values. k is r times
    `common_fraction`, changed so that the rest is shared out evenly, as in the authors' code.
    Tensors of other than two dimensions get the mean of the task vectors, as there, and so does the
    embedding, which is no map of inputs. The tensor is worked on as a whole, in float32.

    Paper: Marczak et al., 2025 (Iso-CTS).
    """

    name: ClassVar[str] = "iso_cts"
    base = "required"
    unit: ClassVar[Unit] = "tensor"
    paper = Paper(
        "No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces",
        2025,
        "https://arxiv.org/abs/2502.04959",
    )

    common_fraction: Annotated[float, Field(ge=0.0, le=1.0)] = 0.8
    """Share of the directions that the sum gives; 1 is the method isotropic."""
    lambda_: float = Field(default=1.0, alias="lambda")
    """Factor of the merged task vector."""

    def merge(self, chunk: Chunk, site: Site, known: Any) -> Floats:
        """Return the base plus the flattened common and own directions."""
        deltas = chunk.deltas()
        if len(site.shape) != 2 or site.name.endswith(EMBEDDINGS):
            return mean_change(chunk, deltas, self.lambda_)
        merged = self._merged(deltas.reshape(len(deltas), *site.shape))
        return add_to_base(chunk, merged.reshape(-1), self.lambda_)

    def _merged(self, matrices: Floats) -> Floats:
        rank = min(matrices.shape[1:])
        num_free = rank - int(rank * self.common_fraction)
        num_own = min(round(num_free / len(matrices)), rank // len(matrices))
        num_common = rank - num_own * len(matrices)
        parts = [_strongest(matrices.sum(axis=0), num_common)]
        common = parts[0][0]
        for matrix in matrices if num_own else ():
            parts.append(_strongest(matrix - common @ (common.T @ matrix), num_own))
        lefts, strengths, rights = zip(*parts, strict=True)
        merged = orthonormal(np.hstack(lefts)) @ orthonormal(np.vstack(rights))
        merged *= np.concatenate(strengths).mean()
        return merged


def _strongest(matrix: Floats, count: int) -> tuple[Floats, Floats, Floats]:
    """Return the first singular vectors and values [out, count], [count], [count, in]."""
    left, strength, right = np.linalg.svd(matrix, full_matrices=False)
    return left[:, :count], strength[:count], right[:count]
