"""GGUF's blocks in one description, and in numpy: what native/blocks.h unpacks, once more.

Of each block, ``weight = (scale * factor) * value - minimum * lower``: the factor and the lower
bound are those of the weight's sub-block, and the value is the code less the centre, or what a
table says of it.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["TYPES", "BlockType", "Blocks", "unpack_blocks", "weights_of"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class Blocks(NamedTuple):
    """Blocks, unpacked."""

    codes: Bytes
    """[blocks, columns]"""
    factors: npt.NDArray[np.int8]
    """[blocks, sub-blocks]"""
    lowers: Bytes | None
    """[blocks, sub-blocks]; None where nothing is subtracted."""
    scale: Floats
    """[blocks]"""
    minimum: Floats | None
    """[blocks]"""


class BlockType(NamedTuple):
    """One of GGUF's types of blocks."""

    columns: int
    block_bytes: int
    sub_columns: int
    num_bits: int
    centre: int
    """What is subtracted from a code."""
    table: tuple[int, ...] | None
    """The values of 16 codes."""
    has_lowers: bool
    unpack: Callable[[Bytes], Blocks]


def unpack_blocks(kind: str, raw: Bytes) -> Blocks:
    """Unpack blocks of a type such as q4_k.

    Args:
        kind: One of `TYPES`.
        raw: Block bytes; the last axis is a whole number of blocks.
    """
    return TYPES[kind].unpack(np.ascontiguousarray(raw).reshape(-1, TYPES[kind].block_bytes))


def weights_of(kind: str, raw: Bytes) -> Floats:
    """Return the weights of blocks; the bytes are those of `unpack_blocks`."""
    said, blocks = TYPES[kind], unpack_blocks(kind, raw)
    if said.table is None:
        values = blocks.codes.astype(np.float32) - np.float32(said.centre)
    else:
        values = np.array(said.table, np.float32)[blocks.codes]
    by_sub = values.reshape(len(values), -1, said.sub_columns)
    by_sub *= (blocks.scale[:, None] * blocks.factors.astype(np.float32))[:, :, None]
    if blocks.minimum is not None and blocks.lowers is not None:
        by_sub -= (blocks.minimum[:, None] * blocks.lowers.astype(np.float32))[:, :, None]
    return by_sub.reshape(*raw.shape[:-1], -1)


def _halves(raw: Bytes, first: int) -> Floats:
    """Return the float16 that begins at a byte of each block."""
    found: Floats = raw[:, first : first + 2].copy().view(np.float16)[:, 0].astype(np.float32)
    return found


def _nibbles(raw: Bytes, run: int) -> Bytes:
    """Split each `run` bytes: their low halves, then the high ones."""
    runs = raw.reshape(len(raw), -1, 1, run) >> np.array([0, 4], np.uint8)[:, None]
    found: Bytes = (runs & np.uint8(15)).reshape(len(raw), -1)
    return found


def _pairs(raw: Bytes) -> Bytes:
    """Split each 32 bytes into codes of 2 bits: the lowest pairs, then the next ones."""
    runs = raw.reshape(len(raw), -1, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None]
    found: Bytes = (runs & np.uint8(3)).reshape(len(raw), -1)
    return found


def _bits(raw: Bytes) -> Bytes:
    """Split 32 bytes into their lowest bits, then the next ones."""
    runs = (raw[:, None, :] >> np.arange(8, dtype=np.uint8)[:, None]) & np.uint8(1)
    found: Bytes = runs.reshape(len(raw), -1)
    return found


def _q2_k(raw: Bytes) -> Blocks:
    factors, lowers = (raw[:, :16] & 15).astype(np.int8), raw[:, :16] >> np.uint8(4)
    return Blocks(_pairs(raw[:, 16:80]), factors, lowers, _halves(raw, 80), _halves(raw, 82))


def _q3_k(raw: Bytes) -> Blocks:
    codes = _pairs(raw[:, 32:96]) | _bits(raw[:, :32]) << np.uint8(2)
    low = _nibbles(raw[:, 96:104], 8)
    high = (raw[:, 104:108][:, None] >> np.array([0, 2, 4, 6], np.uint8)[:, None]) & np.uint8(3)
    factors = (low | high.reshape(len(raw), 16) << np.uint8(4)).astype(np.int8) - np.int8(32)
    return Blocks(codes, factors, None, _halves(raw, 108), None)


def _sixes(raw: Bytes) -> tuple[npt.NDArray[np.int8], Bytes]:
    """Unpack the factors and lower bounds of Q4_K and Q5_K: 8 of each, of 6 bits, in 12 bytes."""
    first, second, mixed = raw[:, :4], raw[:, 4:8], raw[:, 8:]
    factors = np.concatenate([first & 63, (mixed & 15) | ((first >> 2) & 0x30)], axis=1)
    lowers = np.concatenate([second & 63, (mixed >> 4) | ((second >> 2) & 0x30)], axis=1)
    return factors.astype(np.int8), lowers


def _q4_k(raw: Bytes) -> Blocks:
    codes = _nibbles(raw[:, 16:], 32)
    return Blocks(codes, *_sixes(raw[:, 4:16]), _halves(raw, 0), _halves(raw, 2))


def _q5_k(raw: Bytes) -> Blocks:
    codes = _nibbles(raw[:, 48:], 32) | _bits(raw[:, 16:48]) << np.uint8(4)
    return Blocks(codes, *_sixes(raw[:, 4:16]), _halves(raw, 0), _halves(raw, 2))


def _q6_k(raw: Bytes) -> Blocks:
    codes = _nibbles(raw[:, :128], 64) | _pairs(raw[:, 128:192]) << np.uint8(4)
    return Blocks(codes, raw[:, 192:208].view(np.int8), None, _halves(raw, 208), None)


def _q8_k(raw: Bytes) -> Blocks:
    scale = raw[:, :4].copy().view(np.float32)[:, 0]
    factors = np.ones((len(raw), 8), np.int8)
    return Blocks(raw[:, 4:260] ^ np.uint8(128), factors, None, scale, None)


def _fives(raw: Bytes) -> Bytes:
    """Unpack 32 codes of 5 bits: 4 bytes of their highest bits, then the others."""
    highest = np.unpackbits(raw[:, :4], axis=1, bitorder="little")
    return _nibbles(raw[:, 4:], 16) | highest << np.uint8(4)


def _q5_0(raw: Bytes) -> Blocks:
    return Blocks(_fives(raw[:, 2:]), _one_factor(raw), None, _halves(raw, 0), None)


def _q5_1(raw: Bytes) -> Blocks:
    """Its minimum is added; here it is subtracted."""
    lowers = np.ones((len(raw), 1), np.uint8)
    return Blocks(_fives(raw[:, 4:]), _one_factor(raw), lowers, _halves(raw, 0), -_halves(raw, 2))


def _iq4_nl(raw: Bytes) -> Blocks:
    return Blocks(_nibbles(raw[:, 2:], 16), _one_factor(raw), None, _halves(raw, 0), None)


def _iq4_xs(raw: Bytes) -> Blocks:
    low = (raw[:, 4:8, None] >> np.array([0, 4], np.uint8)) & np.uint8(15)
    high = (raw[:, 2:4, None] >> np.array([0, 2, 4, 6], np.uint8)) & np.uint8(3)
    both = low.reshape(-1, 8) | high.reshape(-1, 8) << np.uint8(4)
    factors = both.astype(np.int8) - np.int8(32)
    return Blocks(_nibbles(raw[:, 8:], 16), factors, None, _halves(raw, 0), None)


def _mxfp4(raw: Bytes) -> Blocks:
    """Its scale is an exponent, of half the weights' unit: the table holds twice the values."""
    exponents = raw[:, 0].astype(np.uint32)
    tiny = np.uint32(0x00200000) << np.minimum(exponents, 1)
    usual = (np.maximum(exponents, 1) - np.uint32(1)) << np.uint32(23)
    scale = np.where(exponents < 2, tiny, usual).view(np.float32)
    return Blocks(_nibbles(raw[:, 1:], 16), _one_factor(raw), None, scale, None)


def _one_factor(raw: Bytes) -> npt.NDArray[np.int8]:
    return np.ones((len(raw), 1), np.int8)


_UNEVEN = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_FLOATS_OF_4_BITS = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
TYPES = {
    "q2_k": BlockType(256, 84, 16, 2, 0, None, True, _q2_k),
    "q3_k": BlockType(256, 110, 16, 3, 4, None, False, _q3_k),
    "q4_k": BlockType(256, 144, 32, 4, 0, None, True, _q4_k),
    "q5_k": BlockType(256, 176, 32, 5, 0, None, True, _q5_k),
    "q6_k": BlockType(256, 210, 16, 6, 32, None, False, _q6_k),
    "q8_k": BlockType(256, 292, 32, 8, 128, None, False, _q8_k),
    "q5_0": BlockType(32, 22, 32, 5, 16, None, False, _q5_0),
    "q5_1": BlockType(32, 24, 32, 5, 0, None, True, _q5_1),
    "iq4_nl": BlockType(32, 18, 32, 4, 0, _UNEVEN, False, _iq4_nl),
    "iq4_xs": BlockType(256, 136, 32, 4, 0, _UNEVEN, False, _iq4_xs),
    "mxfp4": BlockType(32, 17, 32, 4, 0, _FLOATS_OF_4_BITS, False, _mxfp4),
}
"""Name -> type, in the order of the enum in native/blocks.h."""
