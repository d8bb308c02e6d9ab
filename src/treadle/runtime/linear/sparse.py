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


class SparseMatrix(NamedTuple):
    """What is added to a matrix [out, in], row by row, where it is not zero."""

    starts: npt.NDArray[np.int64]
    """[out + 1]; row r has the entries starts[r] : starts[r + 1]."""
    columns: npt.NDArray[np.uint16]
    values: Floats
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


def sparse_matrix(name: str, changes: Array, arena: Arena) -> SparseMatrix:
    """Return the entries of a matrix [out, in] that are not zero, in memory of an arena.

    Raises:
        UnsupportedModelError: It has more than 65536 columns.
    """
    if changes.shape[1] > _MOST_COLUMNS:
        raise UnsupportedModelError(
            f"'{name}' has {changes.shape[1]} columns, and experts beside a model have at most "
            f"{_MOST_COLUMNS}; materialise the bundle (treadle merge materialise)."
        )
    rows, columns = np.nonzero(changes)
    starts = np.zeros(len(changes) + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=len(changes)), out=starts[1:])
    own_columns = arena.take(columns.shape, np.uint16)
    own_columns[:] = columns
    values = arena.take(columns.shape, np.float32)
    values[:] = changes[rows, columns]
    return SparseMatrix(starts, own_columns, values, changes.shape)
