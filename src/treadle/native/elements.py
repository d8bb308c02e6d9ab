"""Kernels over runs of elements: bfloat16, magnitudes, counter-based random numbers.

Each has a numpy twin that gives the same bits. Arrays are contiguous and one-dimensional.
"""

import ctypes
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from treadle.native import twins
from treadle.native.loader import library
from treadle.native.pointers import pointer, pointers

__all__ = [
    "are_finite",
    "count_high_bits",
    "count_low_bits",
    "encode_bf16",
    "gram",
    "read_bf16",
    "uniform",
    "weighted_change",
    "weighted_sum",
]

Floats = npt.NDArray[np.float32]


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


def gram(
    vectors: Sequence[Floats] | Floats,
    products: npt.NDArray[np.float64],
    base: Floats | None = None,
) -> None:
    """Add the scalar products of all pairs of vectors to the lower half of `products`.

    Args:
        vectors: As long as each other; products of their numbers are exact in float64.
        products: [vectors, vectors], float64, changed.
        base: What is subtracted from each first, in float32; None for nothing.
    """
    kernel = library("merge")
    if kernel is None:
        return twins.gram(vectors, products, base)
    count = len(vectors)
    room = np.empty(16 * count * (count + 1) // 2)
    sizes = ctypes.c_int32(count), ctypes.c_int64(vectors[0].size)
    start = None if base is None else _of(base)
    kernel.gram(_all_of(vectors), start, *sizes, _of(room), _of(products))
    return None


def read_bf16(descriptor: int, offset: int, target: Floats) -> bool:
    """Fill `target` with bfloat16 numbers of an open file; say whether all are finite.

    Args:
        descriptor: Of the file; its position does not count and does not change.
        offset: Byte of the first number.
        target: Widened to float32.

    Raises:
        EOFError: The file is too short.
        OSError: The system cannot read it.
    """
    kernel = library("merge")
    if kernel is None:
        return twins.read_bf16(descriptor, offset, target)
    place = ctypes.c_int64(offset), ctypes.c_int64(target.size)
    found: int = kernel.read_bf16(ctypes.c_int32(descriptor), *place, _of(target))
    if found < 0:  # the twin meets the same failure, and says what it is
        return twins.read_bf16(descriptor, offset, target)
    return bool(found)


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


def weighted_change(
    vectors: Sequence[Floats] | Floats, base: Floats, weights: Floats, factor: float, target: Floats
) -> None:
    """Write base + factor · the sum of what weighted vectors differ from it, in float32.

    Args:
        vectors: As long as each other.
        base: As long as they are.
        weights: One for each.
        factor: Of the sum.
        target: As long as they are; may be one of them.
    """
    kernel = library("merge")
    if kernel is None:
        return twins.weighted_change(vectors, base, weights, factor, target)
    sizes = ctypes.c_int32(len(vectors)), ctypes.c_int64(target.size)
    places = _all_of(vectors), _of(base), _of(weights)
    kernel.weighted_change(*places, *sizes, ctypes.c_float(factor), _of(target))
    return None


def weighted_sum(vectors: Sequence[Floats] | Floats, weights: Floats, target: Floats) -> None:
    """Write the sum of weighted vectors, added up in their order in float32.

    Args:
        vectors: As long as each other.
        weights: One for each.
        target: As long as they are; may be one of them.
    """
    kernel = library("merge")
    if kernel is None:
        return twins.weighted_sum(vectors, weights, target)
    sizes = ctypes.c_int32(len(vectors)), ctypes.c_int64(target.size)
    kernel.weighted_sum(_all_of(vectors), _of(weights), *sizes, _of(target))
    return None


def _all_of(vectors: Sequence[Floats] | Floats) -> "ctypes.Array[ctypes.c_void_p]":
    assert all(vector.flags.c_contiguous for vector in vectors)
    return pointers(list(vectors))


def _of(array: npt.NDArray[np.generic]) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return pointer(array)
