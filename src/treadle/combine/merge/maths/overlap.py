"""Overlap: which models changed which elements."""

import numpy as np
import numpy.typing as npt

from treadle.combine.merge.base import Floats

__all__ = ["changes", "divide_by_count"]

Masks = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.uint8]


def changes(deltas: Floats, epsilon: float) -> tuple[Masks, Counts]:
    """Return where task vectors exceed epsilon [models, elements], and how many do [elements]."""
    assert len(deltas) < 256
    changed = np.empty(deltas.shape, np.bool_)
    count = np.zeros(deltas.shape[1], np.uint8)
    for row, mask in zip(deltas, changed, strict=True):
        np.greater(np.abs(row), np.float32(epsilon), out=mask)
        count += mask.view(np.uint8)
    return changed, count


def divide_by_count(total: Floats, count: Counts) -> Floats:
    """Divide sums by the number of their terms, in place; sums of none stay."""
    total /= np.maximum(count, 1).astype(np.float32)
    return total
