"""The regression that models' inputs and outputs pose, from the inputs' Gram matrices."""

from collections.abc import Sequence

import numpy as np

from treadle.combine.merge.base import Chunk, Floats, Site
from treadle.combine.merge.maths.gram import Doubles

__all__ = ["regression_mean"]

_RIDGE = 1e-6
"""Of the mean diagonal: it pulls inputs that never fire towards the mean of the models."""


def regression_mean(chunk: Chunk, site: Site, shrinkage: float) -> Floats:
    """Return the tensor [elements] that minimises Σ_n |X_n Wᵀ - X_n W_nᵀ|².

    The mean of the models, where the inputs of one of them are not known.

    Args:
        chunk: All of the tensor.
        site: The tensor, with the Gram matrices X_nᵀ X_n.
        shrinkage: Factor of their entries off the diagonal.
    """
    grams = [gram for known in site.knowledge if (gram := known.gram()) is not None]
    if len(grams) < len(chunk.models):
        mean: Floats = chunk.models.mean(axis=0)
        return mean
    matrices = chunk.models.reshape(len(chunk.models), *site.shape)
    if site.knowledge[0].is_transposed:
        solved = _solved(matrices, grams, shrinkage)
    else:
        solved = _solved(matrices.transpose(0, 2, 1), grams, shrinkage).T
    return np.ascontiguousarray(solved, np.float32).reshape(-1)


def _solved(matrices: Floats, grams: Sequence[Floats], shrinkage: float) -> Doubles:
    """Return the solution [in, out] in float64, for matrices [models, in, out]."""
    total = np.zeros(grams[0].shape)
    wanted = np.zeros(matrices.shape[1:])
    for matrix, gram in zip(matrices, grams, strict=True):
        shrunk = gram.astype(np.float64) * shrinkage
        shrunk[np.diag_indices_from(shrunk)] = np.diagonal(gram)
        total += shrunk
        wanted += shrunk @ matrix
    ridge = _RIDGE * total.trace() / len(total) or 1.0
    total[np.diag_indices_from(total)] += ridge
    wanted += ridge * matrices.mean(axis=0, dtype=np.float64)
    return np.linalg.solve(total, wanted).astype(np.float64, copy=False)
