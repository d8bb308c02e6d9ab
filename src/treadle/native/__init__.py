"""C kernels behind a plain interface, each with a numpy twin that gives the same bits.

All arrays are float32 (masks: bool) in main memory. Scores must be free of NaN, which the caller
refuses where it can still name the tensor; -0.0 equals +0.0, and of equal scores the one with the
lower index is pruned first. Rows are shared out among `num_threads` threads; the result does not
depend on their number.
"""

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from treadle.core.errors import SettingsError
from treadle.core.shapes import Tensor
from treadle.native import twins
from treadle.native.loader import NativeStatus, SlowPathWarning, library, status
from treadle.native.pointers import OwningStructure, pointer

__all__ = [
    "MAX_OBS_WIDTH",
    "NativeStatus",
    "SlowPathWarning",
    "array_of",
    "keep_n_of_m",
    "keep_rows",
    "obs_block",
    "obs_block_n_of_m",
    "smallest_in_tensor",
    "status",
]

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

MAX_OBS_WIDTH = 256
_MAX_GROUP = 32  # wider groups are rows of their own to the kernel
_LANES = 8  # rows that the C code moves together; a thread gets whole bundles


def array_of(tensor: Tensor) -> Floats:
    """Return a float32 tensor of the main memory as an array that shares its storage."""
    found = f"{tensor.dtype} on {tensor.device}"
    if found != "torch.float32 on cpu":
        raise SettingsError(
            f"Found a tensor of {found}, expected torch.float32 on cpu for a native kernel; "
            f"convert it with .to('cpu', torch.float32)."
        )
    array: Floats = tensor.detach().numpy()
    return array


def keep_rows(score: Floats, num_prune: int, *, num_threads: int = 1) -> Bools:
    """Return the mask that prunes exactly the `num_prune` smallest of each row.

    Args:
        score: [rows, cols], contiguous.
        num_prune: From 0 to cols.
        num_threads: Threads that share the rows.
    """
    _check_score(score)
    _check_threads(num_threads)
    rows, cols = score.shape
    if not 0 <= num_prune <= cols:
        raise SettingsError(
            f"Found num_prune={num_prune} for rows of {cols} scores, expected 0 to {cols}; "
            f"lower the sparsity."
        )
    kernel = library("mask")
    if kernel is None:
        return twins.keep_rows(score, num_prune)
    keep = np.empty(score.shape, np.bool_)

    def prune(begin: int, end: int) -> None:
        sizes = map(ctypes.c_int64, (begin, end, cols, num_prune))
        kernel.keep_rows(pointer(score), *sizes, pointer(keep))

    _share(prune, rows, num_threads)
    return keep


def keep_n_of_m(score: Floats, n: int, m: int, *, num_threads: int = 1) -> Bools:
    """Return the mask that keeps the n largest of every m consecutive columns.

    Args:
        score: [rows, cols], contiguous, cols a multiple of m.
        n: From 0 to m.
        m: Size of a group.
        num_threads: Threads that share the groups.
    """
    _check_score(score)
    _check_threads(num_threads)
    _check_pattern(n, m, score.shape[1])
    if m > _MAX_GROUP:
        groups = score.reshape(-1, m)
        return keep_rows(groups, m - n, num_threads=num_threads).reshape(score.shape)
    kernel = library("mask")
    if kernel is None:
        return twins.keep_n_of_m(score, n, m)
    keep = np.empty(score.shape, np.bool_)

    def prune(begin: int, end: int) -> None:
        groups, pattern = map(ctypes.c_int64, (begin, end)), map(ctypes.c_int32, (n, m))
        kernel.keep_n_of_m(pointer(score), *groups, *pattern, pointer(keep))

    _share(prune, score.size // m, num_threads)
    return keep


def smallest_in_tensor(score: Floats, num_prune: int) -> Bools:
    """Return the mask that prunes exactly the `num_prune` smallest of the whole array.

    Args:
        score: Contiguous, of any shape; ties go by the index in the flattened array.
        num_prune: From 0 to the array's size.
    """
    return keep_rows(score.reshape(1, -1), num_prune).reshape(score.shape)


def obs_block(
    weight: Floats, upper: Floats, keep: Bools, error: Floats, *, num_threads: int = 1
) -> None:
    """Apply the optimal-brain-surgeon update inside one block of columns, in place.

    For each column j in order: e = (w_j - q) / U_jj, where q is w_j if kept and 0 if not; then
    w_j = q and w_k -= e U_jk for the columns k > j of the block. The caller spreads `error` over
    the columns right of the block. Rows may be parts of longer ones, except in `upper`.

    Args:
        weight: [rows, width], changed; width at most 256.
        upper: [width, width], contiguous: rows of the upper Cholesky factor of the inverse Hessian.
        keep: [rows, width].
        error: [rows, width], overwritten with e.
        num_threads: Threads that share the rows.
    """
    _check_block(weight, upper, keep, error)
    _check_threads(num_threads)
    kernel = library("obs", _Block)
    if kernel is None:
        return twins.obs_block(weight, upper, keep, error)
    block = _Block.of(weight, upper, keep, error)

    def sweep(begin: int, end: int) -> None:
        kernel.obs_block(ctypes.byref(block), ctypes.c_int64(begin), ctypes.c_int64(end))

    return _share(sweep, weight.shape[0], num_threads)


def obs_block_n_of_m(
    weight: Floats,
    upper: Floats,
    n: int,
    m: int,
    keep: Bools,
    error: Floats,
    *,
    num_threads: int = 1,
) -> None:
    """Like `obs_block`, but choose the mask of every m columns when they are reached.

    The n members of largest w^2 / U_jj^2 are kept, by the weights as they then are.

    Args:
        weight: [rows, width], changed; width a multiple of m and at most 256.
        upper: [width, width], contiguous.
        n: From 0 to m.
        m: Size of a group.
        keep: [rows, width], overwritten with the mask.
        error: [rows, width], overwritten.
        num_threads: Threads that share the rows.
    """
    _check_block(weight, upper, keep, error)
    _check_threads(num_threads)
    _check_pattern(n, m, weight.shape[1])
    kernel = library("obs", _Block)
    if kernel is None:
        return twins.obs_block_n_of_m(weight, upper, n, m, keep, error)
    block = _Block.of(weight, upper, keep, error)

    def sweep(begin: int, end: int) -> None:
        rows, pattern = map(ctypes.c_int64, (begin, end)), map(ctypes.c_int32, (n, m))
        kernel.obs_block_n_of_m(ctypes.byref(block), *rows, *pattern)

    return _share(sweep, weight.shape[0], num_threads)


class _Block(OwningStructure):
    """The struct Block of obs.c."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("upper", ctypes.c_void_p),
        ("keep", ctypes.c_void_p),
        ("error", ctypes.c_void_p),
        ("weight_stride", ctypes.c_int64),
        ("keep_stride", ctypes.c_int64),
        ("error_stride", ctypes.c_int64),
        ("width", ctypes.c_int),
    )
    _points_to_ = (("f4", ("weight", "upper", "error")), ("u1", ("keep",)))
    _takes_strides_ = True

    @classmethod
    def of(cls, weight: Floats, upper: Floats, keep: Bools, error: Floats) -> "_Block":
        strides = [array.strides[0] // array.itemsize for array in (weight, keep, error)]
        return cls(weight, upper, keep, error, *strides, weight.shape[1])


def _share(run: Callable[[int, int], None], num_items: int, num_threads: int) -> None:
    bundles = -(-num_items // _LANES)
    step = max(1, -(-bundles // num_threads)) * _LANES
    ranges = [(begin, min(begin + step, num_items)) for begin in range(0, num_items, step)]
    if len(ranges) == 1:
        run(*ranges[0])
        return
    with ThreadPoolExecutor(num_threads) as pool:
        for done in [pool.submit(run, begin, end) for begin, end in ranges]:
            done.result()


def _check_threads(num_threads: int) -> None:
    if num_threads < 1:
        raise SettingsError(f"Found num_threads={num_threads}, expected at least 1; raise it.")


def _check_score(score: Floats) -> None:
    if score.dtype != np.float32 or score.ndim != 2 or not score.flags.c_contiguous:
        raise SettingsError(
            f"Found scores of {_looks(score)}, expected a contiguous float32 matrix; "
            f"convert them with np.ascontiguousarray(score, np.float32)."
        )


def _check_pattern(n: int, m: int, cols: int) -> None:
    if not (m >= 1 and 0 <= n <= m and cols % m == 0):
        raise SettingsError(
            f"Found the pattern {n}:{m} for {cols} columns, expected 0 <= n <= m and a multiple of "
            f"m columns; choose another pattern."
        )


def _check_block(weight: Floats, upper: Floats, keep: Bools, error: Floats) -> None:
    width = weight.shape[-1]
    if width > MAX_OBS_WIDTH:
        raise SettingsError(
            f"Found a block of {width} columns, expected at most {MAX_OBS_WIDTH}; cut it smaller."
        )
    expected = {
        "weight": (weight, np.float32, (*weight.shape[:1], width)),
        "upper": (upper, np.float32, (width, width)),
        "keep": (keep, np.bool_, weight.shape),
        "error": (error, np.float32, weight.shape),
    }
    for name, (array, dtype, shape) in expected.items():
        whole = array.flags.c_contiguous if name == "upper" else _has_adjacent_columns(array)
        if array.dtype != dtype or array.shape != shape or not whole:
            raise SettingsError(
                f"Found {name} of {_looks(array)}, expected {np.dtype(dtype)} {shape} with "
                f"adjacent columns; convert it with np.ascontiguousarray."
            )


def _has_adjacent_columns(array: npt.NDArray[Any]) -> bool:  # Any: floats and bools alike
    adjacent = array.shape[1] <= 1 or array.strides[1] == array.itemsize
    return array.flags.aligned and array.strides[0] % array.itemsize == 0 and adjacent


def _looks(array: npt.NDArray[Any]) -> str:  # Any: whatever was given
    order = "contiguous" if array.flags.c_contiguous else "strided"
    return f"{order} {array.dtype} {array.shape}"
