"""Kernels over stored codes: rows interleaved for the native step, GGUF's blocks as floats.

Each has a numpy twin that gives the same bits.
"""

import ctypes

import numpy as np
import numpy.typing as npt

from treadle.core import codec
from treadle.native import twins
from treadle.native.blocks import TYPES, weights_of
from treadle.native.loader import library
from treadle.native.pointers import pointer

__all__ = ["decode_blocks", "decode_q4_0", "decode_q4_1", "decode_q8_0", "interleave", "widen"]

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
_BLOCK = 32
_WIDENED = {"float16": "widen_halves", "bfloat16": "widen_upper_halves"}


def interleave(values: npt.NDArray[np.generic], target: npt.NDArray[np.generic]) -> None:
    """Put the same item of each of `lanes` rows side by side.

    Args:
        values: [rows, blocks, items] of 2 or 4 bytes each; rows and blocks may lie anywhere, and
            need not be aligned.
        target: [groups, blocks, items, lanes] of the same type, contiguous; rows of zeros fill its
            last group.
    """
    kernel, is_run = library("codes"), values.strides[2] == values.itemsize or values.shape[2] == 1
    if kernel is None or not is_run:
        return twins.interleave(values, target)
    (rows, blocks, items), (groups, *_, lanes) = values.shape, target.shape
    move = kernel.interleave_2 if values.itemsize == 2 else kernel.interleave_4
    sizes = (*values.strides[:2], rows, blocks, items, lanes, 0, groups)
    move(pointer(values), *map(ctypes.c_int64, sizes), pointer(target))
    return None


def widen(values: npt.NDArray[np.generic], target: Floats) -> None:
    """Put the same column of each of `lanes` rows side by side, in float32.

    Args:
        values: [rows, cols] of float16 or bfloat16; rows may lie anywhere.
        target: [groups, cols, lanes], contiguous; rows of zeros fill its last group.
    """
    kernel, name = library("codes"), _WIDENED.get(values.dtype.name)
    if kernel is None or name is None or values.strides[1] != values.itemsize:
        return twins.widen(values, target)
    (rows, cols), (groups, _, lanes) = values.shape, target.shape
    sizes = (values.strides[0], rows, cols, lanes, 0, groups)
    getattr(kernel, name)(pointer(values), *map(ctypes.c_int64, sizes), pointer(target))
    return None


def decode_blocks(kind: str, raw: Bytes) -> Floats:
    """Return the weights of GGUF blocks of a type of `native.blocks`, such as q4_k.

    Args:
        kind: Its name.
        raw: Block bytes; the last axis is a whole number of blocks.
    """
    kernel, said = library("codes"), TYPES[kind]
    if kernel is None:
        return weights_of(kind, raw)
    blocks, cols = np.ascontiguousarray(raw), raw.shape[-1] // said.block_bytes * said.columns
    target = np.empty((*raw.shape[:-1], cols), np.float32)
    sizes = (0, blocks.size // said.block_bytes)
    number = ctypes.c_int64(tuple(TYPES).index(kind))
    kernel.decode_blocks(number, pointer(blocks), *map(ctypes.c_int64, sizes), pointer(target))
    return target


def decode_q8_0(raw: Bytes) -> Floats:
    """Return the weights of GGUF Q8_0 blocks (see `core.codec`)."""
    return codec.dequantize_q8_0(raw) if library("codes") is None else _decoded("q8_0", raw, 34)


def decode_q4_0(raw: Bytes) -> Floats:
    """Return the weights of GGUF Q4_0 blocks (see `core.codec`)."""
    return codec.dequantize_q4_0(raw) if library("codes") is None else _decoded("q4_0", raw, 18)


def decode_q4_1(raw: Bytes) -> Floats:
    """Return the weights of GGUF Q4_1 blocks (see `core.codec`)."""
    return codec.dequantize_q4_1(raw) if library("codes") is None else _decoded("q4_1", raw, 20)


def _decoded(kind: str, raw: Bytes, block_bytes: int) -> Floats:
    blocks, kernel = np.ascontiguousarray(raw), library("codes")
    num_blocks = blocks.size // block_bytes
    target = np.empty((*raw.shape[:-1], raw.shape[-1] // block_bytes * _BLOCK), np.float32)
    decode = getattr(kernel, f"decode_{kind}")
    decode(pointer(blocks), ctypes.c_int64(0), ctypes.c_int64(num_blocks), pointer(target))
    return target
