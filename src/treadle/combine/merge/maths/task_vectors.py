"""Task vectors, models minus their base, become one: summed, or summed where their signs agree."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from treadle.combine.merge.base import Chunk, Floats
from treadle.native import elements

__all__ = [
    "add_to_base",
    "balance",
    "elected_mean",
    "elected_sum",
    "mean_change",
    "scale",
    "weighted_change",
    "weighted_sum",
]


def scale(vectors: Floats, factors: Floats) -> None:
    """Multiply each vector [vectors, elements] by its factor, in place."""
    for row, factor in zip(vectors, factors, strict=True):
        if factor != 1.0:
            row *= factor


def weighted_sum(vectors: Sequence[Floats] | Floats, weights: Floats) -> Floats:
    """Return Σ w_n v_n in the first vector's memory."""
    merged = vectors[0]
    elements.weighted_sum(vectors, weights, merged)
    return merged


def weighted_change(chunk: Chunk, weights: Floats, factor: float) -> Floats:
    """Return base + factor · Σ w_n (v_n - base) in the first model's memory."""
    assert chunk.base is not None
    merged: Floats = chunk.models[0]
    elements.weighted_change(chunk.models, chunk.base, weights, factor, merged)
    return merged


def elected_sum(
    vectors: Floats, weights: Floats, *, normalize: bool, is_zero_plus: bool = True
) -> Floats:
    """Add up, for each element, the vectors that share the sign of their sum.

    Args:
        vectors: [vectors, elements], weighted; overwritten.
        weights: Of the vectors, for `normalize`.
        normalize: Divide by the sum of the weights of those that took part.
        is_zero_plus: Whether a sum of 0 counts as plus, and not as minus.
    """
    sign = _majority(vectors, is_zero_plus)
    agreeing = _Weights(vectors, weights) if normalize else None
    merged: Floats = vectors[0]
    for place, row in enumerate(vectors):
        row *= sign
        np.maximum(row, 0.0, out=row)
        if agreeing is not None:
            agreeing.add(place, row > 0.0)
        if place:
            merged += row
    merged *= sign
    if agreeing is not None:
        merged /= agreeing.sum_or_one()
    return merged


def balance(vectors: Floats) -> int:
    """Return how many elements have a sum above zero, less those that have one below."""
    total = _total(vectors)
    return int((total > 0.0).sum()) - int((total < 0.0).sum())


def _majority(vectors: Floats, is_zero_plus: bool = True) -> Floats:
    total = _total(vectors)
    # Not copysign, which is slow, and takes the sign of a negative zero.
    is_plus = total >= 0.0 if is_zero_plus else total > 0.0
    np.multiply(is_plus, np.float32(2.0), out=total)
    total -= 1.0
    return total


def _total(vectors: Floats) -> Floats:
    total: Floats = vectors[0] + vectors[1] if len(vectors) > 1 else vectors[0].copy()
    for row in vectors[2:]:
        total += row
    return total


def elected_mean(vectors: Floats, weights: Floats, *, at_least: float) -> Floats:
    """Return, for each element, the weighted mean of the vectors that share the sign of their sum.

    Args:
        vectors: [vectors, elements], not weighted; overwritten.
        weights: Of the vectors.
        at_least: The least divisor.
    """
    sign = _majority(vectors)
    divisor = np.zeros_like(sign)
    for row, weight in zip(vectors, weights, strict=True):
        row *= sign
        np.maximum(row, 0.0, out=row)
        divisor += np.multiply(row > 0.0, weight)
    merged = weighted_sum(vectors, weights)
    merged *= sign
    merged /= np.maximum(divisor, np.float32(at_least), out=divisor)
    return merged


class _Weights:
    """Sums of the weights of vectors that take part; of equal ones only the number is counted."""

    def __init__(self, vectors: Floats, weights: Floats) -> None:
        self._weights = weights
        self._are_equal = bool((weights == weights[0]).all()) and len(weights) < 256
        self._counts = np.zeros(vectors.shape[1] if self._are_equal else 0, np.uint8)
        self._sums = np.zeros(0 if self._are_equal else vectors.shape[1], np.float32)

    def add(self, place: int, taking_part: npt.NDArray[np.bool_]) -> None:
        if self._are_equal:
            self._counts += taking_part.view(np.uint8)
        else:
            self._sums += np.multiply(taking_part, self._weights[place])

    def sum_or_one(self) -> Floats:
        """Return the sums, and one where they are zero."""
        if self._are_equal:
            self._sums = self._counts * self._weights[0]
        self._sums += self._sums == 0.0
        return self._sums


def add_to_base(chunk: Chunk, merged: Floats, factor: float = 1.0) -> Floats:
    """Return base + factor · merged, in the memory of `merged`."""
    assert chunk.base is not None
    if factor != 1.0:
        merged *= np.float32(factor)
    merged += chunk.base
    return merged


def mean_change(chunk: Chunk, deltas: Floats, factor: float) -> Floats:
    """Return base + factor · the mean of the task vectors, in the first one's memory."""
    mean = np.full(len(deltas), 1.0 / len(deltas), np.float32)
    return add_to_base(chunk, weighted_sum(deltas, mean), factor)
