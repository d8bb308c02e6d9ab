"""The kernels once more in numpy: what runs without a compiler, and what defines the result.

Each function gives the same bits as its namesake in C.
"""

import numpy as np
import numpy.typing as npt

from treadle.core.keep import keep_n_of_m, keep_rows

__all__ = ["keep_n_of_m", "keep_rows", "obs_block", "obs_block_n_of_m"]


def obs_block(
    weight: npt.NDArray[np.float32],
    upper: npt.NDArray[np.float32],
    keep: npt.NDArray[np.bool_],
    error: npt.NDArray[np.float32],
) -> None:
    """Eliminate the columns from left to right, spreading each error over the columns after it."""
    for column in range(weight.shape[1]):
        _eliminate(weight, upper, keep, error, column)


def obs_block_n_of_m(
    weight: npt.NDArray[np.float32],
    upper: npt.NDArray[np.float32],
    n: int,
    m: int,
    keep: npt.NDArray[np.bool_],
    error: npt.NDArray[np.float32],
) -> None:
    """Choose the mask of each m columns when they are reached, then eliminate them."""
    diagonal = np.diagonal(upper)
    for column in range(weight.shape[1]):
        if column % m == 0:
            group = slice(column, column + m)
            saliency = weight[:, group] ** 2 / diagonal[group] ** 2
            keep[:, group] = keep_rows(saliency, m - n)
        _eliminate(weight, upper, keep, error, column)


def _eliminate(
    weight: npt.NDArray[np.float32],
    upper: npt.NDArray[np.float32],
    keep: npt.NDArray[np.bool_],
    error: npt.NDArray[np.float32],
    column: int,
) -> None:
    kept = keep[:, column]
    error[:, column] = np.where(kept, 0, weight[:, column] / upper[column, column])
    weight[:, column + 1 :] -= error[:, column, None] * upper[column, column + 1 :]
    weight[:, column] = np.where(kept, weight[:, column], 0)
