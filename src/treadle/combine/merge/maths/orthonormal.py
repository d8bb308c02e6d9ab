"""Directions made orthogonal to each other."""

import numpy as np

from treadle.combine.merge.site import Floats

__all__ = ["orthonormal"]


def orthonormal(vectors: Floats) -> Floats:
    """Return the nearest matrix whose singular values are all one."""
    left, _, right = np.linalg.svd(vectors, full_matrices=False)
    found: Floats = left @ right
    return found
