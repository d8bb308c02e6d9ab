"""Writing compressed-tensors' pack-quantized: what `model.pack_quantized` reads."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from treadle.core.checkpoint import PlannedTensor
from treadle.core.codec import Array
from treadle.model.grid import Grid, unpack

__all__ = [
    "pack_bits",
    "pack_grid",
    "packed_names",
    "planned_matrix",
    "quantization_config",
    "unpack_grid",
]

_WORD_BITS = 32


def pack_bits(codes: npt.NDArray[np.uint8], num_bits: int) -> npt.NDArray[np.int32]:
    """Return codes [rows, n] of 4 or 8 bits in numbers of 32 bits [rows, n * bits / 32].

    The first code stands lowest; what is missing at the end is 0.
    """
    each = _WORD_BITS // num_bits
    width = -(-codes.shape[1] // each) * each
    padded = np.zeros((len(codes), width), np.uint8)
    padded[:, : codes.shape[1]] = codes
    if num_bits == 4:
        padded = padded[:, ::2] | padded[:, 1::2] << np.uint8(4)
    return np.ascontiguousarray(padded).view("<i4").astype(np.int32, copy=False)


def packed_names(stem: str, is_symmetric: bool) -> list[str]:
    """Return the names of the tensors that make up the matrix `stem`.weight."""
    parts = ["packed", "scale", "shape", *([] if is_symmetric else ["zero_point"])]
    return [f"{stem}.weight_{part}" for part in parts]


def planned_matrix(
    stem: str, shape: Sequence[int], num_bits: int, num_groups: int, is_symmetric: bool, scale: str
) -> list[PlannedTensor]:
    """Return the tensors of a matrix [out, in]; `scale` is the dtype code of its scales."""
    rows, columns = shape
    each = _WORD_BITS // num_bits
    shapes = [
        ("I32", (rows, math.ceil(columns / each))),
        (scale, (rows, num_groups)),
        ("I64", (2,)),
        ("I32", (math.ceil(rows / each), num_groups)),
    ]
    names = packed_names(stem, is_symmetric)
    return [PlannedTensor(n, *entry) for n, entry in zip(names, shapes, strict=False)]


def pack_grid(stem: str, grid: Grid, is_symmetric: bool) -> dict[str, Array]:
    """Return the tensors of a matrix, by name."""
    parts: list[Array] = [
        pack_bits(grid.codes, grid.num_bits),
        grid.scales,
        np.array(grid.codes.shape, np.int64),
    ]
    if not is_symmetric:  # packed along the outputs
        zeros = pack_bits(np.ascontiguousarray(grid.zeros.T), grid.num_bits)
        parts.append(np.ascontiguousarray(zeros.T))
    return dict(zip(packed_names(stem, is_symmetric), parts, strict=True))


def unpack_grid(parts: Sequence[Array], num_bits: int) -> Grid:
    """Return the grid of the tensors that `pack_grid` made, in its order."""
    codes, scales, shape, *zeros = parts
    rows, columns = (int(size) for size in shape)
    num_groups = scales.shape[1]
    middle = np.full((rows, num_groups), 1 << (num_bits - 1), np.uint8)
    points = unpack(zeros[0].T, num_bits)[:, :rows].T if zeros else middle
    groups = np.arange(columns) // (columns // num_groups)
    return Grid(unpack(codes, num_bits)[:, :columns], points, scales, groups, num_bits)


def quantization_config(
    num_bits: int, group_columns: int, is_symmetric: bool, ignored: Sequence[str]
) -> dict[str, Any]:  # Any: JSON values
    """Return what config.json says of the weights.

    Args:
        num_bits: Of a code.
        group_columns: Columns that share a scale; 0: a whole row.
        is_symmetric: Whether there are no zero points.
        ignored: Names of the linear modules that stay floats.
    """
    weights = {
        "num_bits": num_bits,
        "type": "int",
        "symmetric": is_symmetric,
        "strategy": "group" if group_columns else "channel",
        "group_size": group_columns or None,
        "dynamic": False,
        "observer": "minmax",
        "actorder": None,
    }
    group = {"targets": ["Linear"], "weights": weights, "format": "pack-quantized"}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": list(ignored),
        "kv_cache_scheme": None,
    }
