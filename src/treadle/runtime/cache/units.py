"""Entries of 4 or 2 bits in the planes of a wider cache: units of 256 neighbours.

A unit's keys have a scale and a minimum for each dimension and 32 tokens, its values for each token
and 32 dimensions, both in float16: a few dimensions of keys are much larger than others, and values
are not (KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache, Liu et al., 2024).

Of a unit's planes the first hold codes and the last one the scales. An array of a plane is seen as
bytes; the dimensions of keys are shared out over the planes of codes, the tokens of values are. A
byte holds numbers a quarter (2 bits) or a half (4 bits) of the unit's tokens, or of a value's
dimensions, apart: the first ones in its lowest bits.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.errors import SettingsError

__all__ = ["GROUP", "UNIT", "UnitForm", "pack_keys", "pack_values", "unit_form"]

UNIT = 256
"""Tokens of a unit."""
GROUP = 32
"""Numbers that share a scale."""
_WIDTHS = {"fp32": 4, "fp16": 2}

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class UnitForm(NamedTuple):
    """How units lie in planes."""

    bits: int
    code_planes: int

    @property
    def num_planes(self) -> int:
        """The planes of a unit in one head."""
        return self.code_planes + 1


def unit_form(bits: int, dtype: str, page_size: int, head_dim: int) -> UnitForm:
    """Return how units of `bits` bits lie in the planes of a cache.

    Raises:
        SettingsError: They do not fit its planes.
    """
    # A unit's keys of one dimension, and of all dimensions the scales, per dimension.
    codes, scales = UNIT * bits // 8, 4 * UNIT // GROUP
    plane = page_size * _WIDTHS.get(dtype, 0)
    if head_dim % GROUP:
        raise SettingsError(
            f"Entries are packed by {GROUP} numbers (keep='kivi'), and this model's heads "
            f"have {head_dim} each; choose kv_dtype='int8', or another policy."
        )
    if UNIT % page_size or plane < scales or codes % plane:
        raise SettingsError(
            f"Entries of {bits} bits (keep='kivi') are packed from pages of 16 tokens in fp16 or "
            f"fp32; found kv_dtype={dtype} and page_size={page_size}. Choose kv_dtype='fp16' and "
            f"page_size=16, or another policy."
        )
    return UnitForm(bits, codes // plane)


def pack_keys(keys: Floats, form: UnitForm, plane_bytes: int) -> Bytes:
    """Return the bytes [heads, planes of a unit, plane_bytes] of keys [heads, 256, dim]."""
    heads, _, dim = keys.shape
    groups = keys.reshape(heads, UNIT // GROUP, GROUP, dim)
    codes, scales = _rounded(groups, 2, form.bits)
    by_dim = codes.reshape(heads, UNIT, dim).swapaxes(1, 2)
    return _laid_out(_paired(by_dim, form.bits), scales, form, plane_bytes)


def pack_values(values: Floats, form: UnitForm, plane_bytes: int) -> Bytes:
    """Do the same for values [heads, 256, dim]."""
    heads, _, dim = values.shape
    groups = values.reshape(heads, UNIT, dim // GROUP, GROUP)
    codes, scales = _rounded(groups, 3, form.bits)
    return _laid_out(_paired(codes.reshape(values.shape), form.bits), scales, form, plane_bytes)


def _rounded(groups: Floats, axis: int, bits: int) -> tuple[Bytes, npt.NDArray[np.float16]]:
    """Return codes, and pairs [..., 2] of the scale and minimum over an axis."""
    low, high = groups.min(axis=axis, keepdims=True), groups.max(axis=axis, keepdims=True)
    top = np.float32((1 << bits) - 1)
    with np.errstate(over="ignore", invalid="ignore"):  # what float16 cannot hold becomes NaN
        minima = low.astype(np.float16)
        scales = ((high - minima) / top).astype(np.float16)
        is_held = np.isfinite(minima) & np.isfinite(scales)
    scales = np.where(is_held, scales, np.float16(np.nan))
    divisors = np.where(is_held & (scales > 0), scales, 1).astype(np.float32)
    steps = (groups - np.where(is_held, minima, 0).astype(np.float32)) / divisors
    codes = np.nan_to_num(steps.round()).clip(0, top).astype(np.uint8)
    return codes, np.stack([scales.squeeze(axis), minima.squeeze(axis)], axis=-1)


def _paired(codes: Bytes, bits: int) -> Bytes:
    """Return bytes [heads, rows, columns * bits / 8] of codes [heads, rows, columns]."""
    parts = np.split(codes, 8 // bits, axis=2)
    found = np.zeros_like(parts[0])
    for place, part in enumerate(parts):
        found |= part << np.uint8(place * bits)
    return found


def _laid_out(
    codes: Bytes, scales: npt.NDArray[np.float16], form: UnitForm, plane_bytes: int
) -> Bytes:
    heads = len(codes)
    found = np.zeros((heads, form.num_planes, plane_bytes), np.uint8)
    found[:, :-1] = codes.reshape(heads, form.code_planes, plane_bytes)
    own = np.ascontiguousarray(scales).view(np.uint8).reshape(heads, -1)
    found[:, -1, : own.shape[1]] = own
    return found
