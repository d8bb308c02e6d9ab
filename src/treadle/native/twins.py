"""The kernels once more in numpy: what runs without a compiler, and what defines the result.

Each function gives the same bits as its namesake in C.
"""

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from treadle.core.keep import keep_n_of_m, keep_rows

__all__ = [
    "are_finite",
    "count_high_bits",
    "count_low_bits",
    "decode_bf16",
    "encode_bf16",
    "gram",
    "interleave",
    "keep_n_of_m",
    "keep_rows",
    "obs_block",
    "obs_block_n_of_m",
    "read_bf16",
    "uniform",
    "weighted_change",
    "weighted_sum",
]

_Vectors = Sequence[npt.NDArray[np.float32]] | npt.NDArray[np.float32]


def obs_block(
    weight: npt.NDArray[np.float32],
    upper: npt.NDArray[np.float32],
    keep: npt.NDArray[np.bool_],
    error: npt.NDArray[np.float32],
) -> None:
    """Eliminate the columns from left to right, spreading each error over the columns after it."""
    for column in range(weight.shape[1]):
        _eliminate(weight, upper, keep, error, column)


def obs_block_n_of_m(
    weight: npt.NDArray[np.float32],
    upper: npt.NDArray[np.float32],
    n: int,
    m: int,
    keep: npt.NDArray[np.bool_],
    error: npt.NDArray[np.float32],
) -> None:
    """Choose the mask of each m columns when they are reached, then eliminate them."""
    diagonal = np.diagonal(upper)
    for column in range(weight.shape[1]):
        if column % m == 0:
            group = slice(column, column + m)
            saliency = weight[:, group] ** 2 / diagonal[group] ** 2
            keep[:, group] = keep_rows(saliency, m - n)
        _eliminate(weight, upper, keep, error, column)


def _eliminate(
    weight: npt.NDArray[np.float32],
    upper: npt.NDArray[np.float32],
    keep: npt.NDArray[np.bool_],
    error: npt.NDArray[np.float32],
    column: int,
) -> None:
    kept = keep[:, column]
    error[:, column] = np.where(kept, 0, weight[:, column] / upper[column, column])
    weight[:, column + 1 :] -= error[:, column, None] * upper[column, column + 1 :]
    weight[:, column] = np.where(kept, weight[:, column], 0)


def decode_bf16(source: npt.NDArray[np.uint16], target: npt.NDArray[np.float32]) -> bool:
    """Widen the bits of bfloat16 numbers; say whether all are finite."""
    np.left_shift(source, np.uint32(16), out=target.view(np.uint32), dtype=np.uint32)
    return are_finite(target)


def encode_bf16(source: npt.NDArray[np.float32], target: npt.NDArray[np.uint16]) -> None:
    """Round finite numbers to bfloat16, ties to even."""
    bits = source.view(np.uint32)
    target[:] = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16


def are_finite(source: npt.NDArray[np.float32]) -> bool:
    """Say whether no number is NaN or infinite."""
    return bool(np.isfinite(source).all())


def count_high_bits(source: npt.NDArray[np.float32], bins: npt.NDArray[np.int64]) -> None:
    """Add, for each number, one to the bin of the upper 16 bits of its magnitude."""
    bins += np.bincount((source.view(np.uint32) & 0x7FFFFFFF) >> 16, minlength=len(bins))


def count_low_bits(source: npt.NDArray[np.float32], high: int, bins: npt.NDArray[np.int64]) -> None:
    """Add one to the bin of the lower bits of each number whose upper bits are `high`."""
    magnitude = source.view(np.uint32) & 0x7FFFFFFF
    bins += np.bincount(magnitude[magnitude >> 16 == high] & 0xFFFF, minlength=len(bins))


def uniform(key: int, first: int, target: npt.NDArray[np.float32]) -> None:
    """Fill `target` with the elements from `first` on of the stream `key`, in [0, 1)."""
    bits = np.arange(first + 1, first + 1 + target.size, dtype=np.uint64)
    bits *= np.uint64(0x9E3779B97F4A7C15)
    bits += np.uint64(key)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    target[:] = ((bits ^ (bits >> np.uint64(31))) >> np.uint64(40)).astype(np.float32) * 2.0**-24


def gram(
    vectors: _Vectors,
    products: npt.NDArray[np.float64],
    base: npt.NDArray[np.float32] | None = None,
) -> None:
    """Add the scalar products of all pairs, added up in 16 lanes of float64, to the lower half."""
    apart = vectors if base is None else [vector - base for vector in vectors]
    for n, left in enumerate(apart):
        for m, right in enumerate(apart[: n + 1]):
            products[n, m] += _dot(left, right)


def _dot(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> float:
    exact = np.zeros(-(-left.size // 16) * 16)
    np.multiply(left, right, out=exact[: left.size], dtype=np.float64)
    found = 0.0
    for value in np.add.reduce(exact.reshape(-1, 16), axis=0).tolist():
        found += value
    return found


def read_bf16(descriptor: int, offset: int, target: npt.NDArray[np.float32]) -> bool:
    """Read bfloat16 numbers from a file as float32; say whether all are finite."""
    raw = np.empty(target.size, np.uint16)
    view = raw.view(np.uint8).data
    while view:
        count = os.preadv(descriptor, [view], offset)
        if count == 0:
            raise EOFError(f"the file ends at byte {offset}")
        view, offset = view[count:], offset + count
    return decode_bf16(raw, target)


def weighted_sum(
    vectors: _Vectors,
    weights: npt.NDArray[np.float32],
    target: npt.NDArray[np.float32],
) -> None:
    """Write the sum of the weighted vectors, added up in their order."""
    total = vectors[0] * weights[0]
    for vector, weight in zip(vectors[1:], weights[1:], strict=True):
        total += vector * weight
    target[:] = total


def weighted_change(
    vectors: _Vectors,
    base: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32],
    factor: float,
    target: npt.NDArray[np.float32],
) -> None:
    """Write the base plus a factor times the sum of what the weighted vectors differ from it."""
    total = (vectors[0] - base) * weights[0]
    for vector, weight in zip(vectors[1:], weights[1:], strict=True):
        total += (vector - base) * weight
    total *= np.float32(factor)
    total += base
    target[:] = total


def interleave(values: npt.NDArray[np.generic], target: npt.NDArray[np.generic]) -> None:
    """Put the same item of each of `lanes` rows side by side: [groups, blocks, items, lanes]."""
    (rows, blocks, items), lanes = values.shape, target.shape[-1]
    filled = np.pad(values, ((0, -rows % lanes), (0, 0), (0, 0)))
    target[...] = np.moveaxis(filled.reshape(-1, lanes, blocks, items), 1, -1)


def widen(values: npt.NDArray[np.generic], target: npt.NDArray[np.float32]) -> None:
    """Put the same column of each of `lanes` rows side by side, in float32."""
    interleave(values.astype(np.float32)[:, None], target[:, None])
