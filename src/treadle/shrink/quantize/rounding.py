"""Grids that cover the weights of each group, and rounding to them."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.codec import DTYPES, Array
from treadle.core.errors import CheckpointError
from treadle.model.grid import Grid
from treadle.shrink.quantize.base import Scheme

__all__ = ["Cover", "cover", "on_grid"]

Floats = npt.NDArray[np.float32]


class Cover(NamedTuple):
    """Scales and zero points [out, groups] under which no weight of a group is cut off."""

    scales: Array
    """In the dtype in which they are stored; never 0."""
    zeros: npt.NDArray[np.uint8]
    groups: npt.NDArray[np.int64]
    """[in]: the group of each column."""
    num_bits: int

    def positions(self, weight: Floats) -> Floats:
        """Return where weights [out, in] lie between the codes, which are whole numbers."""
        scales = self.scales.astype(np.float32)[:, self.groups]
        found: Floats = weight / scales + self.zeros.astype(np.float32)[:, self.groups]
        return found


def cover(weight: Floats, scheme: Scheme) -> Cover:
    """Return the grid of each group of columns.

    Symmetric: s = max|w| / (2^(b-1) - 1), with 0 in the middle. Otherwise s = (h - l) / (2^b - 1)
    over the range l..h of the group and 0, and the code z = -l / s, rounded, stands for 0: what is
    0 stays 0 in both. Scales are rounded to the dtype that stores them before anything else.

    Raises:
        CheckpointError: A scale is beyond that dtype.
    """
    num_columns = weight.shape[1]
    size = scheme.group_columns or num_columns
    by_group = weight.reshape(len(weight), num_columns // size, size)
    top, middle = 2**scheme.num_bits - 1, 2 ** (scheme.num_bits - 1)
    if scheme.is_symmetric:
        scales = _stored(np.abs(by_group).max(axis=2) / np.float32(middle - 1), scheme)
        zeros = np.full(scales.shape, middle, np.uint8)
    else:
        low, high = (end(by_group, axis=2) for end in (np.min, np.max))
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        scales = _stored((high - low) / np.float32(top), scheme)
        zeros = np.rint(-low / scales.astype(np.float32)).clip(0, top).astype(np.uint8)
    return Cover(scales, zeros, np.arange(num_columns) // size, scheme.num_bits)


def _stored(scales: Floats, scheme: Scheme) -> Array:
    """Return scales as they are stored; a group of zeros has the scale 1."""
    with np.errstate(over="ignore"):
        found: Array = scales.astype(DTYPES[scheme.scale_dtype])
    if not np.isfinite(found.astype(np.float32)).all():
        raise CheckpointError(
            f"A weight of {float(np.abs(scales).max()):.3g} code steps overflows {found.dtype}, in "
            f"which its scale is stored; convert the model to bfloat16 or float32 first."
        )
    found[found == 0] = 1
    return found


def on_grid(cover: Cover, positions: Floats) -> Grid:
    """Return the codes of whole positions; those beyond the ends become the ends."""
    codes = positions.clip(0, 2**cover.num_bits - 1).astype(np.uint8)
    return Grid(codes, cover.zeros, cover.scales, cover.groups, cover.num_bits)
