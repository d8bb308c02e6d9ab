"""Between stored bytes and numbers: safetensors dtypes, casts, GGUF blocks, numpy and torch views.

Everything is vectorised numpy. ml_dtypes supplies the types that numpy lacks (bfloat16 and 8-bit
floats); casts to a narrower float round to the nearest value, ties to even.
"""

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from treadle.core.errors import SettingsError

if TYPE_CHECKING:
    import torch

__all__ = [
    "DTYPES",
    "FLOATS",
    "Array",
    "as_numpy",
    "as_torch",
    "cast",
    "count_zeros",
    "dequantize_q4_0",
    "dequantize_q4_1",
    "dequantize_q8_0",
    "dtype_code",
    "quantize_q4_0",
    "quantize_q4_1",
    "quantize_q8_0",
]

Array = NDArray[Any]  # Any: ml_dtypes' scalar types are not known to numpy's type stubs

# safetensors' dtype codes, as the numpy types that hold them.
DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
FLOATS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})

_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
# Casts to these can overflow for weights that a wider float held.
_NARROW = frozenset({"F16", "F8_E4M3", "F8_E5M2"})
_CHUNK = 4 << 20
# How torch names the types that numpy.ndarray cannot hand over directly.
_TORCH_ONLY = {
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}
_CARRIERS = {1: np.dtype(np.uint8), 2: np.dtype(np.int16)}

_BLOCK = 32
_Q4_0_BLOCK_BYTES = 18  # fp16 scale, 16 bytes of 4-bit codes
_Q4_1_BLOCK_BYTES = 20  # fp16 scale, fp16 minimum, 16 bytes of 4-bit codes
_Q8_0_BLOCK_BYTES = 34  # fp16 scale, 32 signed 8-bit codes


def dtype_code(dtype: str | np.dtype[Any]) -> str:
    """Return the safetensors code of a numpy dtype, a float's usual name, or a code.

    Raises:
        SettingsError: safetensors has no such dtype.
    """
    if isinstance(dtype, str):
        code = _NAMES.get(dtype.removeprefix("torch."), dtype if dtype in DTYPES else None)
    else:
        code = _CODES.get(dtype)
    if code is None:
        known = ", ".join([*_NAMES, *DTYPES])
        raise SettingsError(f"dtype {str(dtype)!r} is unknown; choose one of: {known}.")
    return code


def cast(array: Array, code: str, name: str) -> Array:
    """Return `array` in the dtype `code`, rounding to nearest even, without a copy if it has it.

    Args:
        array: The numbers.
        code: A safetensors dtype code.
        name: What the numbers are, for the error.

    Raises:
        SettingsError: the cast is not between floats, or a finite number is too large for `code`.
    """
    found = dtype_code(array.dtype)
    if found == code:
        return array
    if found not in FLOATS or code not in FLOATS:
        raise SettingsError(
            f"Tensor {name!r} holds {found}, but {code} was expected, and only floats are cast; "
            f"give it as {code}."
        )
    with np.errstate(over="ignore", invalid="ignore"):  # signalling NaN is a value like another
        narrowed = array.astype(DTYPES[code])
        overflows = code in _NARROW and np.any(np.isfinite(array) & ~np.isfinite(narrowed))
    if overflows:
        finite = array[np.isfinite(array)].astype(np.float64)
        raise SettingsError(
            f"Tensor {name!r} holds {np.abs(finite).max():g}, more than {code} can express "
            f"({float(ml_dtypes.finfo(DTYPES[code]).max):g}); choose bfloat16 or float32."
        )
    return narrowed


def count_zeros(values: Array) -> int:
    """Count zeros of either sign in floats of any width."""
    bits = values.reshape(-1).view(f"u{values.dtype.itemsize}")
    starts = range(0, bits.size, _CHUNK)
    num_others = sum(int(np.count_nonzero(bits[i : i + _CHUNK] << 1)) for i in starts)
    return bits.size - num_others


def as_torch(array: Array) -> "torch.Tensor":
    """Return a torch tensor over the same memory (no copy)."""
    import torch

    kind = _TORCH_ONLY.get(dtype_code(array.dtype))
    if kind is None:
        return torch.from_numpy(array)
    return torch.from_numpy(array.view(_CARRIERS[array.itemsize])).view(getattr(torch, kind))


def as_numpy(values: "Array | torch.Tensor") -> Array:
    """Return a numpy array over the memory of a numpy array or CPU tensor (no copy)."""
    if isinstance(values, np.ndarray):
        return values
    import torch

    tensor = values.detach()
    for code, kind in _TORCH_ONLY.items():
        if tensor.dtype == getattr(torch, kind):
            carrier = torch.uint8 if tensor.element_size() == 1 else torch.int16
            carried: Array = tensor.view(carrier).numpy()
            return carried.view(DTYPES[code])
    plain: Array = tensor.numpy()
    return plain


def dequantize_q4_0(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the weights of GGUF Q4_0 blocks: ``scale * (code - 8)``, 32 to a block.

    Args:
        raw: Block bytes; the last axis is a whole number of 18-byte blocks.
    """
    blocks = raw.reshape(-1, _Q4_0_BLOCK_BYTES)
    scale = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
    codes = _unpaired(blocks[:, 2:])
    codes -= 8
    codes *= scale
    return codes.reshape(*raw.shape[:-1], -1)


def dequantize_q4_1(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the weights of GGUF Q4_1 blocks: ``scale * code + minimum``, 32 to a block.

    Args:
        raw: Block bytes; the last axis is a whole number of 20-byte blocks.
    """
    blocks = raw.reshape(-1, _Q4_1_BLOCK_BYTES)
    scale_and_minimum = np.ascontiguousarray(blocks[:, :4]).view(np.float16).astype(np.float32)
    codes = _unpaired(blocks[:, 4:])
    codes *= scale_and_minimum[:, :1]
    codes += scale_and_minimum[:, 1:]
    return codes.reshape(*raw.shape[:-1], -1)


def dequantize_q8_0(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the weights of GGUF Q8_0 blocks: ``scale * code``, 32 to a block.

    Args:
        raw: Block bytes; the last axis is a whole number of 34-byte blocks.
    """
    blocks = raw.reshape(-1, _Q8_0_BLOCK_BYTES)
    scale = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
    weights = blocks[:, 2:].view(np.int8).astype(np.float32)
    weights *= scale
    return weights.reshape(*raw.shape[:-1], -1)


def _unpaired(pairs: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Split bytes [blocks, 16] into codes [blocks, 32]: the low halves, then the high ones."""
    codes = np.empty((len(pairs), _BLOCK), np.float32)
    codes[:, : _BLOCK // 2] = pairs & 0x0F
    codes[:, _BLOCK // 2 :] = pairs >> 4
    return codes


def quantize_q8_0(weights: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Round to 8 bits in blocks of 32: codes [..., cols] and scales [..., cols / 32].

    A weight is ``scale * code``; the scale is the block's largest magnitude / 127, in float16.
    """
    blocks = _blocks(weights)
    scales = (np.abs(blocks).max(axis=-1, keepdims=True) / 127).astype(np.float16)
    codes = np.rint(_divided(blocks, scales)).clip(-127, 127).astype(np.int8)
    return codes.reshape(weights.shape), scales[..., 0]


def quantize_q4_0(weights: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """Round to 4 bits in blocks of 32, around zero: codes 0..15 [..., cols], scales.

    A weight is ``scale * (code - 8)``; the scale is the block's extreme value / -8, in float16, so
    that the extreme itself is met.
    """
    blocks = _blocks(weights)
    places = np.abs(blocks).argmax(axis=-1, keepdims=True)
    scales = (np.take_along_axis(blocks, places, axis=-1) / -8).astype(np.float16)
    codes = np.rint(_divided(blocks, scales)).clip(-8, 7) + 8
    return codes.astype(np.uint8).reshape(weights.shape), scales[..., 0]


def quantize_q4_1(
    weights: NDArray[np.float32],
) -> tuple[NDArray[np.uint8], NDArray[np.float16], NDArray[np.float16]]:
    """Round to 4 bits in blocks of 32, from the minimum up: codes 0..15, scales, minima.

    A weight is ``scale * code + minimum``, both in float16.
    """
    blocks = _blocks(weights)
    minima = blocks.min(axis=-1, keepdims=True).astype(np.float16)
    scales = ((blocks.max(axis=-1, keepdims=True) - minima) / 15).astype(np.float16)
    codes = np.rint(_divided(blocks - minima, scales)).clip(0, 15)
    return codes.astype(np.uint8).reshape(weights.shape), scales[..., 0], minima[..., 0]


def _blocks(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    assert weights.shape[-1] % _BLOCK == 0, "blocks must divide the last axis"
    return weights.reshape(*weights.shape[:-1], -1, _BLOCK)


def _divided(blocks: NDArray[np.float32], scales: NDArray[np.float16]) -> NDArray[np.float32]:
    wide = scales.astype(np.float32)
    return np.divide(blocks, wide, out=np.zeros_like(blocks), where=wide != 0)
