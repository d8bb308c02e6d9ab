"""GGUF's blocks as the native step reads them: every bit of the file, in another order."""

import numpy as np

from treadle.core.codec import Array
from treadle.model.coded import BLOCK, RawBlocks
from treadle.native.blocks import TYPES
from treadle.native.repack import MULTIPLIED, layout_of, repack
from treadle.runtime.linear.packed import Matrix, Packed, PackedLayout, Room

__all__ = ["BLOCK_FORMS", "pack_blocks"]

_FIRST_TYPE = 4
BLOCK_FORMS = {kind: _FIRST_TYPE + place for place, kind in enumerate(MULTIPLIED)}
"""Form -> the type that step_matrix.h knows."""


def pack_blocks(
    blocks: RawBlocks, layout: PackedLayout, room: Room, bias: Array | None = None
) -> Packed:
    """Return a matrix of the blocks that a file stores."""
    rows, runs, lanes = len(blocks.raw), blocks.cols // BLOCK, layout.lanes
    laid, groups = layout_of(blocks.form), -(-rows // lanes)
    data = room.data.take((groups, runs, laid.vectors, lanes, 4), np.uint8)
    scales = runs // (TYPES[blocks.form].columns // BLOCK)
    halves = room.scales.take((groups, scales, laid.each, lanes), np.uint16)
    factors = room.scales.take((groups, runs, laid.num_factors, lanes), np.uint8)
    repack(blocks.form, blocks.raw, data, halves, factors)
    own_bias = None if bias is None else np.ascontiguousarray(bias, np.float32)
    arrays = [data, halves, None, factors, own_bias]
    kind = BLOCK_FORMS[blocks.form]
    struct = Matrix(kind, rows, blocks.cols, 0, *arrays)
    return Packed(struct, tuple(array for array in arrays if array is not None))
