"""The exact lowest scores of a whole model, without holding them.

Two passes count the bits of the floats.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from treadle.core.shapes import Bool, Float, Tensor

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["GlobalThreshold", "find_threshold"]

Scores = Callable[[], Iterator[tuple[str, "Float[Tensor, 'out in']"]]]
"""Starts a fresh pass over the scores of all matrices, by name, in a fixed order."""


def _keys(score: Float[Tensor, "out in"]) -> "npt.NDArray[np.uint32]":
    """Return unsigned integers in the order of the floats; -0.0 counts as 0.0."""
    bits = (score.detach().float().contiguous().numpy() + np.float32(0.0)).view(np.uint32)
    sign = np.uint32(0x80000000)
    return np.where(bits & sign, ~bits, bits | sign).reshape(-1)


class GlobalThreshold(NamedTuple):
    """Scores below the threshold go; of those equal to it, each matrix's share of the ties."""

    key: int
    num_ties: dict[str, int]
    """Name of the matrix -> how many of its scores at the threshold go."""

    def keep(self, name: str, score: Float[Tensor, "out in"]) -> Bool[Tensor, "out in"]:
        """Return the keep-mask of the matrix `name`."""
        import torch

        keys = _keys(score)
        mask = keys > self.key
        ties = np.flatnonzero(keys == self.key)
        mask[ties[self.num_ties[name] :]] = True
        return torch.from_numpy(mask).reshape(score.shape)


def find_threshold(scores: Scores, sparsity_counts: Callable[[int], int]) -> GlobalThreshold:
    """Return the threshold under which exactly `sparsity_counts(total)` scores go.

    Ties go in visiting order.
    """
    high: npt.NDArray[Any] = np.zeros(1 << 16, dtype=np.int64)
    for _, score in scores():
        high += np.bincount(_keys(score) >> np.uint32(16), minlength=1 << 16)
    num_prune = sparsity_counts(int(high.sum()))
    top, below = _bin(high, num_prune)
    low: npt.NDArray[Any] = np.zeros(1 << 16, dtype=np.int64)
    for _, score in scores():
        keys = _keys(score)
        inside = keys[keys >> np.uint32(16) == top]
        low += np.bincount(inside & np.uint32(0xFFFF), minlength=1 << 16)
    bottom, below_in_bin = _bin(low, num_prune - below)
    key = (top << 16) | bottom
    left = num_prune - below - below_in_bin
    shares: dict[str, int] = {}
    for name, score in scores():
        share = min(left, int((_keys(score) == key).sum()))
        shares[name] = share
        left -= share
    return GlobalThreshold(key, shares)


def _bin(counts: "npt.NDArray[Any]", rank: int) -> tuple[int, int]:
    """Return the bin that holds the `rank`-th smallest, and how many lie below that bin.

    Ranks count from 0; a rank beyond the last means the last.
    """
    ends = np.cumsum(counts)
    found = int(np.searchsorted(ends, min(rank, int(ends[-1]) - 1), side="right"))
    return found, int(ends[found - 1]) if found else 0
