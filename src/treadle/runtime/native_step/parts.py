"""Matrices that lie inside of other tensors: fused by rows, transposed, or on each other.

Nothing of a tensor is copied to cut a matrix out of it, but where its rows lie scattered.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.checkpoint import CheckpointReader, TensorInfo
from treadle.core.codec import Array
from treadle.model import facts
from treadle.model.coded import Coded, DecodedReader, Obstacle, RawBlocks, Stored

__all__ = ["MatrixPart", "Rows", "parts_of", "shown"]

_TARGETS = {"fc": "up"}
"""Role in facts -> the matrix of the struct Layer that does the same."""
Rows = slice | npt.NDArray[np.intp]


class MatrixPart(NamedTuple):
    """A matrix [out, in] of a block, and where it is."""

    role: str
    """One of `structs.ROLES`."""
    linear: facts.Linear
    rows: Rows
    """Of the tensor as [out, in] that are the matrix."""

    @property
    def is_whole(self) -> bool:
        """Whether the matrix is a tensor of its own."""
        is_cut = self.linear.transposed or self.linear.place is not None
        return not is_cut and isinstance(self.rows, slice) and self.rows == slice(None)

    @property
    def name(self) -> str:
        """The tensor's name, with what part of it the matrix is."""
        if self.is_whole:
            return self.linear.tensor
        place = "" if self.linear.place is None else f"[{self.linear.place}]"
        return f"{self.linear.tensor}{place}[{self.role}]"

    @property
    def bias_tensor(self) -> str:
        """The name of the tensor that holds its bias, if there is one."""
        return self.linear.tensor.removesuffix("weight") + "bias"

    @property
    def bias(self) -> str:
        """The name of its bias, as `name`."""
        return self.bias_tensor if self.is_whole else f"{self.bias_tensor}[{self.role}]"


def parts_of(linear: facts.Linear, num_rows: int, dim: int) -> list[MatrixPart]:
    """Return the matrices of the struct Layer that a matrix of facts holds.

    Args:
        linear: Of a block.
        num_rows: Of its tensor, as [out, in].
        dim: Of a head; queries, keys and values in one matrix lie head by head.
    """
    if linear.role != "qkv":
        return [MatrixPart(_TARGETS.get(linear.role, linear.role), linear, linear.rows)]
    places = np.arange(num_rows).reshape(-1, 3, dim)
    return [MatrixPart(r, linear, places[:, n].ravel()) for n, r in enumerate("qkv")]


def shown(reader: CheckpointReader, parts: Sequence[MatrixPart]) -> CheckpointReader:
    """Return a reader that has each matrix and its bias under their names.

    A tensor is released with the last matrix that lies in it, in the order of `parts`.
    """
    if all(part.is_whole for part in parts):
        return reader
    last = {part.linear.tensor: part for part in parts}
    stored: dict[str, Stored] = {}
    for part in parts:
        tensor = part.linear.tensor
        stored[part.name] = _Cut(reader, part, tensor, last[tensor] is part)
        if part.bias_tensor in reader.tensors:
            stored[part.bias] = _Cut(reader, part, part.bias_tensor, False)
    if isinstance(reader, DecodedReader):
        return DecodedReader(reader.folder, reader.config, stored, reader.close)
    return _FloatParts(reader, stored)


class _FloatParts(CheckpointReader):
    """Parts of a checkpoint of floats, which has no codes."""

    def __init__(self, reader: CheckpointReader, stored: Mapping[str, Stored]) -> None:
        self.folder, self.config = reader.folder, reader.config
        self.tensors = {name: part.info for name, part in stored.items()}
        self._stored = stored

    def release(self, name: str) -> None:
        self._stored[name].release()

    def _view(self, name: str) -> Array:
        return self._stored[name].floats()


class _Cut:
    """A matrix inside of its tensor, or its bias."""

    def __init__(
        self, reader: CheckpointReader, part: MatrixPart, tensor: str, is_last: bool
    ) -> None:
        self._reader, self._part, self._tensor, self._is_last = reader, part, tensor, is_last

    @property
    def info(self) -> TensorInfo:
        return self._reader.tensors[self._tensor]

    def floats(self) -> Array:
        linear, values = self._part.linear, self._reader.array(self._tensor)
        if self._tensor == linear.tensor:
            values = values if linear.place is None else values[linear.place]
            values = values.T if linear.transposed else values
        found: Array = values[self._part.rows]
        return found

    def coded(self) -> Coded | RawBlocks | Obstacle | None:
        if not isinstance(self._reader, DecodedReader):
            return None
        found = self._reader.coded(self._tensor)
        if not isinstance(found, Coded | RawBlocks):
            return found
        if self._part.linear.transposed:
            return Obstacle("it lies transposed")
        if isinstance(found, RawBlocks):
            return found._replace(raw=self._cut(found.raw))
        parts = (found.codes, found.scales, found.minima)
        codes, scales, minima = (None if one is None else self._cut(one) for one in parts)
        assert codes is not None
        assert scales is not None
        return Coded(found.form, codes, scales, minima)

    def _cut(self, values: Array) -> Array:
        """Return the rows of a matrix out of those [rows, ...] of all that its tensor holds."""
        place, shape = self._part.linear.place, self.info.shape
        if place is not None:
            values = values.reshape(*shape[:-1], *values.shape[1:])[place]
        found: Array = values[self._part.rows]
        return found

    def release(self) -> None:
        if self._is_last:
            self._reader.release(self._tensor)
