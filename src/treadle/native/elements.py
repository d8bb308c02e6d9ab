"""Kernels over runs of elements: bfloat16, magnitudes, counter-based random numbers.

Each has a numpy twin that gives the same bits. Arrays are contiguous and one-dimensional.
"""

import ctypes

import numpy as np
import numpy.typing as npt

from treadle.native import twins
from treadle.native.loader import library

__all__ = [
    "are_finite",
    "count_high_bits",
    "count_low_bits",
    "decode_bf16",
    "dot",
    "encode_bf16",
    "uniform",
]

Floats = npt.NDArray[np.float32]


def decode_bf16(source: npt.NDArray[np.uint16], target: Floats) -> bool:
    """Write bfloat16 numbers, given as their bits, as float32; say whether all are finite."""
    kernel = library("merge")
    if kernel is None:
        return twins.decode_bf16(source, target)
    return bool(kernel.decode_bf16(_of(source), ctypes.c_int64(source.size), _of(target)))


def dot(left: Floats, right: Floats) -> float:
    """Return the scalar product, added up in float64."""
    kernel = library("merge")
    if kernel is None:
        return twins.dot(left, right)
    kernel.dot.restype = ctypes.c_double
    return float(kernel.dot(_of(left), _of(right), ctypes.c_int64(left.size)))


def encode_bf16(source: Floats, target: npt.NDArray[np.uint16]) -> None:
    """Write finite float32 numbers as the bits of bfloat16, to nearest, ties to even."""
    kernel = library("merge")
    if kernel is None:
        return twins.encode_bf16(source, target)
    kernel.encode_bf16(_of(source), ctypes.c_int64(source.size), _of(target))
    return None


def are_finite(source: Floats) -> bool:
    """Say whether no number is NaN or infinite."""
    kernel = library("merge")
    if kernel is None:
        return twins.are_finite(source)
    return bool(kernel.are_finite(_of(source), ctypes.c_int64(source.size)))


def count_high_bits(source: Floats, bins: npt.NDArray[np.int64]) -> None:
    """Add, for each number, one to the bin of the upper 16 bits of its magnitude.

    Args:
        source: Finite numbers; their signs do not count.
        bins: [32768], changed.
    """
    kernel = library("merge")
    if kernel is None:
        return twins.count_high_bits(source, bins)
    kernel.count_high_bits(_of(source), ctypes.c_int64(source.size), _of(bins))
    return None


def count_low_bits(source: Floats, high: int, bins: npt.NDArray[np.int64]) -> None:
    """Add one to the bin of the lower 16 bits of each number whose upper bits are `high`.

    Args:
        source: Finite numbers; their signs do not count.
        high: The upper 16 bits of a magnitude.
        bins: [65536], changed.
    """
    kernel = library("merge")
    if kernel is None:
        return twins.count_low_bits(source, high, bins)
    size, bits = ctypes.c_int64(source.size), ctypes.c_uint32(high)
    kernel.count_low_bits(_of(source), size, bits, _of(bins))
    return None


def uniform(key: int, first: int, target: Floats) -> None:
    """Fill `target` with elements `first`, `first` + 1, ... of the stream `key`, in [0, 1).

    Element i is SplitMix64's output for the counter i, so that runs can be drawn in any order.
    """
    kernel = library("merge")
    if kernel is None:
        return twins.uniform(key, first, target)
    counters = map(ctypes.c_uint64, (key, first))
    kernel.uniform(*counters, ctypes.c_int64(target.size), _of(target))
    return None


def _of(array: npt.NDArray[np.generic]) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)
