"""Ridge regression of scores on vectors, where some scores are not known."""

import numpy as np
import numpy.typing as npt

from treadle.combine.route.maths.averages import means

__all__ = ["STRENGTHS", "ridge"]

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
STRENGTHS = tuple(10.0**power for power in (-1, 0, 0.5, 1, 1.5, 2, 2.5, 3))
"""Among which leaving one out decides."""


def ridge(
    vectors: Floats, wanted: Doubles, strength: float | None = None
) -> tuple[Floats, Floats, float]:
    """Return weights [columns, dim], biases [columns], and the strength that was taken.

    Minimises |W v + b - y|^2 + strength |W|^2 for each column over the rows that know it; biases
    are free. Computes in float64.

    Args:
        vectors: [rows, dim].
        wanted: [rows, columns], NaN where not known.
        strength: None takes the one of `STRENGTHS` with the least squared error on rows that were
            left out one by one, over all columns.
    """
    inputs = vectors.astype(np.float64)
    parts = [_Solved(inputs[known], wanted[known][:, columns]) for known, columns in _alike(wanted)]
    if strength is None:
        errors = [sum(part.left_out(one) for part in parts) for one in STRENGTHS]
        strength = STRENGTHS[int(np.argmin(errors))]
    weight = np.zeros((wanted.shape[1], inputs.shape[1]), np.float32)
    bias = means(wanted).astype(np.float32)  # stays where a column knows no row
    for part, (_, columns) in zip(parts, _alike(wanted), strict=True):
        weight[columns], bias[columns] = part.weights(strength)
    return weight, bias, strength


def _alike(wanted: Doubles) -> list[tuple[npt.NDArray[np.bool_], list[int]]]:
    """Return groups of columns that are known on the same rows, and which rows these are."""
    groups: dict[bytes, tuple[npt.NDArray[np.bool_], list[int]]] = {}
    for column, known in enumerate(np.isfinite(wanted).T):
        if known.any():
            groups.setdefault(known.tobytes(), (known, []))[1].append(column)
    return list(groups.values())


class _Solved:
    """One regression for every strength, from one decomposition."""

    def __init__(self, inputs: Doubles, wanted: Doubles) -> None:
        self._middle, self._usual = inputs.mean(axis=0), wanted.mean(axis=0)
        rows = inputs - self._middle
        values, self._axes = np.linalg.eigh(rows.T @ rows)
        self._squares = np.maximum(values, 0)
        self._turned = rows @ self._axes
        self._wanted = wanted - self._usual
        self._seen = self._turned.T @ self._wanted

    def weights(self, strength: float) -> tuple[Doubles, Doubles]:
        """Return weights [columns, dim] and biases."""
        solved = self._axes @ (self._seen / (self._squares + strength)[:, None])
        return solved.T, self._usual - self._middle @ solved

    def left_out(self, strength: float) -> float:
        """Return the sum of squared errors on rows that were left out, each in its turn."""
        share = 1 / (self._squares + strength)
        errors = self._wanted - self._turned @ (self._seen * share[:, None])
        own = (self._turned**2 * share).sum(axis=1) + 1 / len(self._turned)
        return float(((errors / np.maximum(1 - own, 1e-9)[:, None]) ** 2).sum())
