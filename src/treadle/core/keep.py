"""The spine: given scores, keep the best under a budget. Pure functions over arrays.

Every function takes scores without NaN and returns a boolean keep-mask of the same shape. Ties
prune the lower index first; -0.0 equals 0.0. `treadle.native` has the fast forms of the same names.
"""

import math

import numpy as np
import numpy.typing as npt

from treadle.core.errors import SettingsError

__all__ = ["keep_counts", "keep_n_of_m", "keep_pooled", "keep_rows", "num_pruned"]


Keeps = npt.NDArray[np.bool_]


def num_pruned(size: int, sparsity: float) -> int:
    """Return how many of `size` entries a fraction removes: the floor, safe against 0.1 * 30 > 3.

    Raises:
        SettingsError: `sparsity` is outside 0..1.
    """
    if not 0.0 <= sparsity <= 1.0:
        raise SettingsError(
            f"sparsity = {sparsity} is outside 0..1; give the fraction of weights to remove, such "
            f"as 0.5."
        )
    return min(size, math.floor(size * sparsity + 1e-9))


def keep_rows(score: npt.NDArray[np.float32], num_prune: int) -> npt.NDArray[np.bool_]:
    """Prune the `num_prune` lowest of each row: a stable sort leaves ties in column order."""
    pruned = np.argsort(score, axis=1, kind="stable")[:, :num_prune]
    keep = np.ones(score.shape, np.bool_)
    np.put_along_axis(keep, pruned, False, axis=1)
    return keep


def keep_n_of_m(score: npt.NDArray[np.float32], n: int, m: int) -> npt.NDArray[np.bool_]:
    """Keep the n highest of every m neighbours of a row."""
    return keep_rows(score.reshape(-1, m), m - n).reshape(score.shape)


def keep_counts(score: npt.NDArray[np.float32], counts: npt.NDArray[np.int64]) -> Keeps:
    """Keep the highest of each row, `counts` [rows] of them."""
    order = np.argsort(score, axis=1, kind="stable")
    keep = np.empty(score.shape, np.bool_)
    is_kept = np.arange(score.shape[1]) >= score.shape[1] - counts[:, None]
    np.put_along_axis(keep, order, is_kept, axis=1)
    return keep


def keep_pooled(score: npt.NDArray[np.float32], total: int, floor: int) -> Keeps:
    """Keep the `total` highest of all rows together, and the `floor` highest of each in any case.

    `floor` times the number of rows must not be more than `total`.
    """
    sure = keep_counts(score, np.full(len(score), min(floor, score.shape[1])))
    if total >= score.size:
        return np.ones(score.shape, np.bool_)
    keep = sure.ravel().copy()
    others = np.flatnonzero(~keep)
    missing = max(0, total - int(keep.sum()))
    by_rank = np.argsort(score.ravel()[others], kind="stable")
    keep[others[by_rank[len(others) - missing :]]] = True
    return keep.reshape(score.shape)
