"""The nearest matrix of a low rank, and how much of a matrix it holds."""

from typing import NamedTuple

import numpy as np

from treadle.combine.merge.site import Floats

__all__ = ["LowRankParts", "nearest"]

_EXACT = 1024
"""Up to this smaller side the whole decomposition is cheap."""
_BEYOND = 16
"""Directions that a sketch has beside those that are wanted."""
_ROUNDS = 4
"""Power iterations: each one parts directions by the square of their singular values again."""


class LowRankParts(NamedTuple):
    """left @ right, [rows, rank] @ [rank, columns]: both have the roots of the singular values."""

    left: Floats
    right: Floats
    energy: float
    """Share of the squared Frobenius norm that they hold."""

    def filled(self, rank: int) -> "LowRankParts":
        """Return the same product with zeros up to a rank."""
        missing = rank - self.left.shape[1]
        left = np.pad(self.left, ((0, 0), (0, missing)))
        return LowRankParts(left, np.pad(self.right, ((0, missing), (0, 0))), self.energy)


def nearest(
    matrix: Floats, rank: int, energy: float | None, draw: np.random.Generator
) -> LowRankParts:
    """Return the nearest matrix of at most `rank` (Eckart and Young, 1936).

    The leading directions are eigenvectors of the smaller product of the matrix with itself, in
    float64. Where the smaller side is above 1024 and far above the rank, they come from a sketch
    with four power iterations (Halko, Martinsson and Tropp, 2011).

    Args:
        matrix: [rows, columns] in float32; the product of a matrix of zeros is one of rank 1.
        rank: At most.
        energy: Take the fewest directions that hold this share of the squared norm; None for all
            `rank`.
        draw: For the sketch.
    """
    total = float(np.square(matrix, dtype=np.float64).sum()) or 1.0
    smaller = min(matrix.shape)
    rank = min(rank, smaller)
    if smaller <= _EXACT or 4 * (rank + _BEYOND) > smaller:
        left, values, right = _exact(matrix, rank)
    else:
        left, values, right = _sketched(matrix, rank + _BEYOND, draw)
    held = np.cumsum(np.square(values.astype(np.float64))) / total
    count = int(np.count_nonzero(values > values[0] * np.finfo(np.float32).eps))
    count = max(1, min(rank, count))
    if energy is not None:
        count = min(count, 1 + int(np.searchsorted(held[:count], energy - 1e-12)))
    roots = np.sqrt(values[:count])
    return LowRankParts(
        np.ascontiguousarray(left[:, :count] * roots),
        np.ascontiguousarray(roots[:, None] * right[:count]),
        min(1.0, float(held[count - 1])),
    )


def _exact(matrix: Floats, rank: int) -> tuple[Floats, Floats, Floats]:
    """Return the leading singular vectors and values [rows, rank], [rank], [rank, columns].

    The square of float32's range fits float64, so that nothing is lost that float32 could hold.
    """
    is_wide = matrix.shape[0] <= matrix.shape[1]
    wide = (matrix if is_wide else matrix.T).astype(np.float64)
    squares, basis = np.linalg.eigh(wide @ wide.T)
    values = np.sqrt(np.maximum(squares[::-1][:rank], 0.0))
    basis = basis[:, ::-1][:, :rank]
    others = (basis.T @ wide) / np.where(values > 0, values, 1.0)[:, None]
    left, right = (basis, others) if is_wide else (others.T, basis.T)
    return left.astype(np.float32), values.astype(np.float32), right.astype(np.float32)


def _sketched(
    matrix: Floats, width: int, draw: np.random.Generator
) -> tuple[Floats, Floats, Floats]:
    found = matrix @ draw.standard_normal((matrix.shape[1], width), dtype=np.float32)
    for _ in range(_ROUNDS):
        basis, _ = np.linalg.qr(found)
        other, _ = np.linalg.qr(matrix.T @ basis)
        found = matrix @ other
    basis, _ = np.linalg.qr(found)
    inner, values, right = np.linalg.svd(basis.T @ matrix, full_matrices=False)
    return basis @ inner, values, right
