"""Means of scores, some of which are not known."""

import numpy as np
import numpy.typing as npt

__all__ = ["group_means", "means"]

Doubles = npt.NDArray[np.float64]


def means(values: Doubles) -> Doubles:
    """Return the mean of each column over what is known.

    Where nothing is, 0 or the least of all values, whichever is less: what nobody knows is no
    better than what somebody does, though rates took more off than there was.
    """
    is_known = np.isfinite(values)
    filled = np.where(is_known, values, 0)
    means_there = filled.sum(axis=0) / np.maximum(is_known.sum(axis=0), 1)
    found: Doubles = np.where(is_known.any(axis=0), means_there, filled.min(initial=0))
    return found


def group_means(values: Doubles, labels: npt.NDArray[np.int64], count: int) -> Doubles:
    """Return the means of each group [count, columns]; a column's own where a group knows none."""
    found = np.repeat(means(values)[None], count, axis=0)
    for label in range(count):
        rows = values[labels == label]
        has_any = np.isfinite(rows).any(axis=0)
        found[label, has_any] = means(rows)[has_any]
    return found
