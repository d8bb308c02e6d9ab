"""Matrices whose weights lie on a grid: codes, zero points and scales, by groups of columns.

A weight is ``scale * (code - zero)``. The formats of quantised folders differ in how these lie in
tensors; from here on they are one.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.checkpoint import CheckpointReader
from treadle.core.codec import Array
from treadle.core.errors import CheckpointError
from treadle.model.coded import BLOCK, Coded, CodeForm, Obstacle, pair_codes

__all__ = ["Config", "Grid", "as_blocks", "bits_at", "require_kind", "require_shape", "unpack"]

Config = dict[str, Any]  # Any: JSON values of quantization_config
_NUM_BITS = (4, 8)
_KINDS = {
    "floats": ("F16", "BF16", "F32", "F64"),
    "whole numbers": ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64"),
    "packed codes": ("I32", "U32"),
    "codes of a byte": ("I8", "F8_E4M3"),
}
"""What a tensor of a quantised matrix may hold -> codes of safetensors."""
_HALF_ERROR = 2.0**-11
"""Relative error of rounding to float16, above which a scale is not held in it."""


class Grid(NamedTuple):
    """A matrix [out, in] of codes."""

    codes: npt.NDArray[np.uint8]
    """[out, in], from 0 on."""
    zeros: npt.NDArray[np.uint8]
    """[out, groups]: the code that stands for 0."""
    scales: Array
    """[out, groups], finite."""
    groups: npt.NDArray[np.int64]
    """[in]: the group of each column."""
    num_bits: int

    def floats(self) -> npt.NDArray[np.float32]:
        """Return the weights [out, in]."""
        codes = self.codes.astype(np.float32)
        codes -= self.zeros.astype(np.float32)[:, self.groups]
        codes *= self.scales.astype(np.float32)[:, self.groups]
        return codes


def bits_at(reader: CheckpointReader, name: str, packed: int, plain: int) -> int:
    """Return the bits of a code: `plain` codes lie in `packed` numbers of 32 bits.

    Raises:
        CheckpointError: No number of bits that is read fits.
    """
    for num_bits in _NUM_BITS:
        if -(-plain * num_bits // 32) == packed:
            return num_bits
    raise CheckpointError(
        f"Tensor '{name}' in '{reader.folder}' holds {packed} numbers of 32 bits for {plain} "
        f"codes, but codes of 4 and 8 bits are read; quantise the model to 4 or 8 bits."
    )


def require_shape(
    reader: CheckpointReader, name: str, expected: tuple[int, ...], kind: str
) -> Array:
    """Return a tensor, checked to have a shape and to hold "floats" or "whole numbers", say.

    Raises:
        CheckpointError: It is not there, or has another shape or type.
    """
    found = require_kind(reader, name, kind, len(expected))
    if found != expected:
        raise CheckpointError(
            f"Tensor '{name}' in '{reader.folder}' has shape {list(found)}, but its matrix makes "
            f"it {list(expected)}; download the checkpoint again."
        )
    return reader.array(name)


def require_kind(
    reader: CheckpointReader, name: str, kind: str, num_axes: int = 2
) -> tuple[int, ...]:
    """Return the shape of a tensor, by its header, if it is of a kind and has so many axes.

    Raises:
        CheckpointError: It is not there, of another type, or has other axes.
    """
    if name not in reader.tensors:
        raise CheckpointError(
            f"Tensor '{name}' is missing from '{reader.folder}', where its matrix is quantised; "
            f"download the checkpoint again."
        )
    found = reader.tensors[name]
    if found.dtype not in _KINDS[kind]:
        raise CheckpointError(
            f"Tensor '{name}' in '{reader.folder}' is of the type {found.dtype}, but {kind} were "
            f"expected ({', '.join(_KINDS[kind])}); download the checkpoint again."
        )
    if len(found.shape) != num_axes or 0 in found.shape:
        raise CheckpointError(
            f"Tensor '{name}' in '{reader.folder}' has shape {list(found.shape)}, but {num_axes} "
            f"axes of at least one number were expected; download the checkpoint again."
        )
    return found.shape


def unpack(packed: Array, num_bits: int) -> npt.NDArray[np.uint8]:
    """Split the numbers of 32 bits on the last axis into codes, the lowest bits first."""
    pieces = np.ascontiguousarray(packed).view(np.uint8)
    if num_bits == 8:
        return pieces
    pairs = np.stack([pieces & np.uint8(15), pieces >> np.uint8(4)], axis=-1)
    return pairs.reshape(*packed.shape[:-1], -1)


def as_blocks(grid: Grid) -> Coded | Obstacle:
    """Lay a grid's codes into blocks of 32 columns, if that changes none of its numbers."""
    num_cols = grid.codes.shape[1]
    if num_cols % BLOCK:
        return Obstacle(f"{num_cols} columns are no multiple of {BLOCK}")
    by_block = grid.groups.reshape(-1, BLOCK)
    if (by_block != by_block[:, :1]).any():
        return Obstacle(f"a group is no run of a multiple of {BLOCK} columns (desc_act?)")
    blocks = by_block[:, 0]
    middle = 1 << (grid.num_bits - 1)
    is_symmetric = bool((grid.zeros == middle).all())
    if grid.num_bits == 8 and not is_symmetric:
        return Obstacle("8-bit codes have zero points")
    scales = _halves(grid.scales.astype(np.float32))
    if scales is None:
        return Obstacle("a scale is out of float16's range")
    if grid.num_bits == 8:
        signed = (grid.codes ^ np.uint8(128)).view(np.int8)
        return Coded("q8", signed.reshape(len(signed), -1, BLOCK), scales[:, blocks], None)
    # Rounded to float16: an error of at most 15 / 2048 of a step.
    minima = _halves(-grid.zeros.astype(np.float32) * scales.astype(np.float32))
    if minima is None:
        return Obstacle("a zero point is out of float16's range")
    form: CodeForm = "q4_0" if is_symmetric else "q4_1"
    return Coded(form, pair_codes(grid.codes), scales[:, blocks], minima[:, blocks])


def _halves(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float16] | None:
    """Return values in float16, or None where that holds one of them worse than usual."""
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    error = np.abs(halves.astype(np.float32) - values)
    return halves if (error <= np.abs(values) * _HALF_ERROR).all() else None
