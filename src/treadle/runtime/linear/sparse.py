"""Experts beside a model: what each changes in its tensors, and how rows mix them."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.codec import Array
from treadle.core.errors import UnsupportedModelError
from treadle.runtime.executor import Floats
from treadle.runtime.linear.arena import Arena

__all__ = ["ExpertChanges", "SparseMatrix", "sparse_matrix"]

_MOST_COLUMNS = 1 << 16
"""Columns are counted in 16 bits."""
_MOST_ENTRIES = 1 << 31
_HALF_EXPONENT = 15
"""Float16 reaches 2^16."""


class SparseMatrix(NamedTuple):
    """What is added to a matrix [out, in], row by row, where it is not zero."""

    starts: npt.NDArray[np.int32]
    """[out + 1]; row r has the entries starts[r] : starts[r + 1]."""
    columns: npt.NDArray[np.uint16]
    values: Array
    """In float32; or in float16, times `scale`."""
    scale: float
    shape: tuple[int, int]

    @property
    def num_bytes(self) -> int:
        """The bytes that a product with it reads."""
        return self.starts.nbytes + self.columns.nbytes + self.values.nbytes


class ExpertChanges(NamedTuple):
    """What one expert changes in the model beside it, by the names of tensors."""

    matrices: Mapping[str, SparseMatrix]
    vectors: Mapping[str, Floats]
    """What is added to norms and biases."""
    content_hash: str

    @property
    def num_bytes(self) -> int:
        """The bytes of all changes."""
        return sum(m.num_bytes for m in self.matrices.values()) + sum(
            vector.nbytes for vector in self.vectors.values()
        )


def sparse_matrix(name: str, changes: Array, arena: Arena, is_half: bool) -> SparseMatrix:
    """Return the entries of a matrix [out, in] that are not zero, in memory of an arena.

    Args:
        name: Of the matrix.
        changes: All of it.
        arena: Where they are to lie.
        is_half: Hold them in float16. Differences of numbers that are stored in 16 bits are mostly
            exact in it, after the largest of a matrix is scaled by a power of two to the upper end
            of its range; the others lose less than the model's weights have lost.

    Raises:
        UnsupportedModelError: It has more than 65536 columns, or 2^31 entries.
    """
    rows, columns = np.nonzero(changes)
    if changes.shape[1] > _MOST_COLUMNS or len(rows) >= _MOST_ENTRIES:
        raise UnsupportedModelError(
            f"'{name}' has {changes.shape[1]} columns and {len(rows)} changed numbers, and experts "
            f"beside a model have at most {_MOST_COLUMNS} and {_MOST_ENTRIES - 1}; materialise the "
            f"bundle (treadle merge materialise)."
        )
    starts = np.zeros(len(changes) + 1, np.int32)
    np.cumsum(np.bincount(rows, minlength=len(changes)), out=starts[1:])
    own_columns = arena.take(columns.shape, np.uint16)
    own_columns[:] = columns
    kept, scale = changes[rows, columns], 1.0
    if is_half and len(kept):
        scale = float(2.0 ** (np.ceil(np.log2(np.abs(kept).max())) - _HALF_EXPONENT))
    values = arena.take(columns.shape, np.float16 if is_half else np.float32)
    values[:] = kept / np.float32(scale)
    return SparseMatrix(starts, own_columns, values, scale, changes.shape)
