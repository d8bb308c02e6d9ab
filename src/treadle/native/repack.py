"""GGUF's blocks as the native step multiplies them: rows interleaved, codes in planes of bits.

What C does (codes_repack.c), once more in numpy, with the same bytes.
"""

import ctypes
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.native.blocks import TYPES, unpack_blocks
from treadle.native.loader import library
from treadle.native.pointers import pointer

__all__ = ["MULTIPLIED", "BlockLayout", "layout_of", "repack"]

Bytes = npt.NDArray[np.uint8]
Halves = npt.NDArray[np.uint16]
_RUN = 32
"""Columns of a block as the kernel sees it."""
MULTIPLIED = tuple(kind for kind in TYPES if kind != "q8_k")
"""Types that the native step multiplies as they lie."""
_HALVES_AT = {"q2_k": 80, "q3_k": 108, "q6_k": 208}
"""The byte of a block at which its scale stands, where that is not the first."""


class BlockLayout(NamedTuple):
    """What a run of 32 columns takes, of each row."""

    low: int
    """Vectors of the lowest bits: 4 of four bits, or 2 of two."""
    high: int
    """Vectors of what is above them: bits."""
    parts: int
    """That have factors of their own."""
    each: int
    """Halves of a scale: 2 with a minimum, 0 of an exponent."""
    num_factors: int
    """Bytes: factors, and lower bounds."""

    @property
    def vectors(self) -> int:
        """Of 4 bytes a row."""
        return self.low + self.high


def layout_of(kind: str) -> BlockLayout:
    """Return how blocks of a type in `MULTIPLIED` are laid."""
    said = TYPES[kind]
    low, parts = 4 if said.num_bits > 3 else 2, _RUN // said.sub_columns
    each, is_super = 1 + said.has_lowers, said.columns > _RUN
    if kind == "mxfp4":
        return BlockLayout(low, 0, 1, 0, 1)
    per_part = (1 if kind == "q2_k" else each) if is_super else 0  # there, both share a byte
    return BlockLayout(low, said.num_bits - low, parts, each, parts * per_part)


def repack(kind: str, raw: Bytes, data: Bytes, halves: Halves, factors: Bytes) -> None:
    """Lay blocks out for the kernel.

    Args:
        kind: One of `MULTIPLIED`.
        raw: [rows, bytes of a row]; rows may lie anywhere, their bytes in one run.
        data: [groups, runs, vectors, lanes, 4], contiguous as all targets.
        halves: [groups, scales, 1 or 2, lanes]; empty where the scale is an exponent.
        factors: [groups, runs, factors, lanes]; empty where there are none.
    """
    kernel = library("codes")
    if kernel is None or raw.strides[1] != 1:
        _in_numpy(kind, raw, data, halves, factors)
        return
    groups, runs, _, lanes, _ = data.shape
    sizes = (raw.strides[0], len(raw), runs, lanes, 0, groups)
    targets = [pointer(target) for target in (data, halves, factors)]
    number = ctypes.c_int32(tuple(TYPES).index(kind))
    kernel.repack_blocks(number, pointer(raw), *map(ctypes.c_int64, sizes), *targets)


def _in_numpy(kind: str, raw: Bytes, data: Bytes, halves: Halves, factors: Bytes) -> None:
    said, laid, own = TYPES[kind], layout_of(kind), unpack_blocks(kind, raw)
    rows, runs = len(raw), data.shape[1]
    fours = own.codes.reshape(rows, runs, 8, 4)
    _interleaved(_vectors(fours, laid), data)
    blocks = np.ascontiguousarray(raw).reshape(rows, -1, said.block_bytes)
    if laid.each:
        at = _HALVES_AT.get(kind, 0)
        found = blocks[:, :, at : at + 2 * laid.each].copy().view(np.uint16)
        _interleaved(found, halves)
    if kind == "mxfp4":
        _interleaved(blocks[:, :, :1], factors)
    elif laid.num_factors:
        parts = [own.factors.view(np.uint8).reshape(rows, runs, laid.parts)]
        if kind == "q2_k" and own.lowers is not None:
            parts[0] = parts[0] | own.lowers.reshape(parts[0].shape) << np.uint8(4)
        elif own.lowers is not None:
            parts.append(own.lowers.reshape(rows, runs, laid.parts))
        _interleaved(np.concatenate(parts, axis=2), factors)


def _vectors(fours: Bytes, laid: BlockLayout) -> Bytes:
    """Return [rows, runs, vectors, 4] of codes [rows, runs, 8, 4]."""
    if laid.low == 4:
        low = fours[:, :, :4] & np.uint8(15) | (fours[:, :, 4:] & np.uint8(15)) << np.uint8(4)
    else:
        low = _gathered(fours.reshape(*fours.shape[:2], 2, 4, 4) & np.uint8(3), 2)
    above = fours >> np.uint8(laid.low)
    if laid.high == 1:
        return np.concatenate([low, _gathered(above[:, :, None] & np.uint8(1), 1)], axis=2)
    if laid.high == 2:
        by_part = above.reshape(*above.shape[:2], 2, 4, 4)
        return np.concatenate([low, _gathered(by_part & np.uint8(3), 2)], axis=2)
    return low


def _gathered(codes: Bytes, bits: int) -> Bytes:
    """Return bytes of codes [..., places, 4], the first in the lowest bits."""
    shifts = (bits * np.arange(codes.shape[-2], dtype=np.uint8))[:, None]
    found: Bytes = np.bitwise_or.reduce(codes << shifts, axis=-2)
    return found


def _interleaved(values: npt.NDArray[np.generic], target: npt.NDArray[np.generic]) -> None:
    """Put [rows, blocks, items, ...] into [groups, blocks, items, lanes, ...]."""
    lanes = target.shape[3]
    for row, own in enumerate(values):
        target[row // lanes, :, :, row % lanes] = own
