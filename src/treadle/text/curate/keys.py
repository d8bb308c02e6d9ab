"""Documents that share a key, found by sorting in a bounded room."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

__all__ = ["pairs_of_equal_keys", "ranges_of"]

Integers = npt.NDArray[np.int64]
_SORT_BYTES = 256 << 20
"""Keys that are sorted at a time."""


def pairs_of_equal_keys(keys: npt.NDArray[np.uint64]) -> tuple[Integers, Integers]:
    """Return neighbours of equal key, so that pairs join all documents that share one.

    Keys are [docs], or [docs, 2] where one number is too short to be safe. They are sorted in
    ranges of their upper bits, so that the room for sorting is bounded.
    """
    left, right = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for inside in ranges_of(keys if keys.ndim == 1 else keys[:, 0]):
        some = keys[inside]
        order = np.argsort(some, kind="stable") if some.ndim == 1 else np.lexsort(some.T[::-1])
        same = some[order[1:]] == some[order[:-1]]
        if some.ndim > 1:
            same = same.all(axis=1)
        left.append(inside[order[:-1][same]])
        right.append(inside[order[1:][same]])
    return np.concatenate(left), np.concatenate(right)


def ranges_of(keys: npt.NDArray[np.uint64]) -> Iterator[Integers]:
    """Yield where the keys of one range of upper bits stand, in rising order, range by range."""
    num_ranges = 1
    while len(keys) * 16 // num_ranges > _SORT_BYTES:
        num_ranges *= 2
    if num_ranges == 1:
        yield np.arange(len(keys))
        return
    shift = np.uint64(64 - num_ranges.bit_length() + 1)
    for number in range(num_ranges):
        yield np.flatnonzero(keys >> shift == np.uint64(number))
