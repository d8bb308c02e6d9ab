"""WUDI: the task matrix that disturbs each task's own inputs least, from the weights alone."""

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, Site, Unit
from treadle.combine.merge.maths.gram import Doubles
from treadle.combine.merge.maths.task_vectors import add_to_base, mean_change
from treadle.core.method import Paper
from treadle.model.facts import EMBEDDINGS

__all__ = ["Wudi", "least_disturbing"]

_CUT = 1e-10
"""Directions whose eigenvalue is below this share of the trace keep the sum of the task matrices:
below a singular value of 1e-5 there is nothing but the rounding of float32 weights."""


class Wudi(MergeMethod):
    """Find the task matrix whose error is smallest on the inputs that each task's matrix reads.

    Training moves a matrix along its inputs, so that the rows of a task matrix Δ_n span what the
    task reads, and stand in for its data. The merged Δ minimises Σ_n ‖(Δ - Δ_n) Δ_nᵀ‖² / ‖Δ_n‖².
    The paper takes 300 steps of Adam from S = Σ Δ_n; the loss is a convex quadratic, so here it is
    solved: with G_n = Δ_nᵀ Δ_n / ‖Δ_n‖² and G = Σ G_n, Δ = S + (Σ Δ_n G_n - S G) G⁺, in float64,
    where G⁺ = (G + 1e-10 tr(G) I)⁻¹ leaves what no task reads at S; θ = θ_0 + λ Δ. A model that did
    not move a matrix has no say in it. Stacked experts are solved one by one. What is no matrix
    gets the mean of the task vectors, and so does the embedding, whose rows are no inputs of a map.
    The tensor is worked on as a whole.

    Paper: Cheng et al., 2025 (WUDI-Merging).
    """

    name: ClassVar[str] = "wudi"
    base = "required"
    unit: ClassVar[Unit] = "tensor"
    reads_matrices: ClassVar[bool] = True
    paper = Paper(
        "Whoever Started the Interference Should End It: Guiding Data-Free Model Merging via Task "
        "Vectors",
        2025,
        "https://arxiv.org/abs/2503.08099",
    )

    lambda_: float = Field(default=1.0, alias="lambda")
    """Factor of the merged task vector."""

    def merge(self, chunk: Chunk, site: Site, known: Any) -> Floats:
        """Return the base plus the merged task matrix."""
        deltas = chunk.deltas()
        if not _holds_matrices(site):
            return mean_change(chunk, deltas, self.lambda_)
        stacks = deltas.reshape(len(deltas), -1, *site.shape[-2:])
        merged = np.empty(stacks.shape[1:], np.float32)
        for place, target in enumerate(merged):
            matrices = stacks[:, place]
            if site.is_transposed:
                target.T[:] = least_disturbing(matrices.transpose(0, 2, 1))
            else:
                target[:] = least_disturbing(matrices)
        return add_to_base(chunk, merged.reshape(-1), self.lambda_)


def _holds_matrices(site: Site) -> bool:
    """Say whether a tensor is a matrix, or experts' matrices on each other, and no biases."""
    if site.name.endswith(EMBEDDINGS):
        return False
    is_of_experts = ".experts." in site.name
    if is_of_experts and site.name.endswith("bias"):
        return False
    return len(site.shape) == 2 or (len(site.shape) == 3 and is_of_experts)


def least_disturbing(matrices: Floats) -> Doubles:
    """Return the minimiser [out, in] for task matrices [models, out, in]."""
    shape = matrices.shape[1:]
    total, wanted = np.zeros(shape), np.zeros(shape)
    gram = np.zeros((shape[1], shape[1]))
    for matrix in matrices:
        wide = matrix.astype(np.float64)
        size = float(np.square(wide).sum())
        if size == 0.0:
            continue
        own = wide.T @ wide
        own /= size
        total += wide
        wanted += wide @ own
        gram += own
    wanted -= total @ gram
    # A soft cut: many times faster than eigenvectors, and as exact where a task reads at all.
    gram[np.diag_indices_from(gram)] += _CUT * gram.trace() or 1.0
    found: Doubles = total + np.linalg.solve(gram, wanted.T).T
    return found
