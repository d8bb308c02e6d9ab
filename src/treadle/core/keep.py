"""The spine: given scores, keep the best under a budget. Pure functions over arrays.

Every function takes scores without NaN and returns a boolean keep-mask of the same shape. Ties
prune the lower index first; -0.0 equals 0.0. `treadle.native` has the fast forms of the same names.
"""

import math

import numpy as np
import numpy.typing as npt

from treadle.core.errors import SettingsError

__all__ = ["keep_n_of_m", "keep_rows", "num_pruned"]


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
