"""Weights as the native step reads them: float32, float16, 8 or 4 bits, in plain arrays."""

import ctypes
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.codec import Array, quantize_q4_0, quantize_q4_1, quantize_q8_0
from treadle.core.errors import SettingsError
from treadle.core.registry import near

__all__ = ["WEIGHT_FORMS", "Layout", "Matrix", "Packed", "WeightForm", "pack", "require_form"]

WeightForm = Literal["fp32", "fp16", "q8", "q4_0", "q4_1"]
WEIGHT_FORMS = {"fp32": 0, "fp16": 1, "q8": 2, "q4_0": 3, "q4_1": 3}
"""Form -> the type that step_matrix.h knows; 4-bit codes differ only in their minima."""
_BLOCK = 32


class Matrix(ctypes.Structure):
    """The struct Matrix of step_matrix.h."""

    _fields_ = (
        ("type", ctypes.c_int32),
        ("rows", ctypes.c_int32),
        ("cols", ctypes.c_int32),
        ("unused", ctypes.c_int32),
        ("data", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("minima", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    )


class Packed(NamedTuple):
    """A matrix and the arrays that its struct points into, which must live as long."""

    struct: Matrix
    arrays: tuple[Array, ...]

    @property
    def num_bytes(self) -> int:
        """The bytes that one product with a vector reads."""
        return sum(array.nbytes for array in self.arrays)


def require_form(form: str) -> WeightForm:
    """Return `form` if weights can be held in it.

    Raises:
        SettingsError: They cannot.
    """
    if form not in WEIGHT_FORMS:
        raise SettingsError(f"No weight form '{form}'. {near(form, WEIGHT_FORMS)}")
    return form  # type: ignore[return-value]


class Layout(NamedTuple):
    """How the machine's kernel wants quantised weights."""

    lanes: int
    """Rows that are interleaved."""
    offset: int
    """What is added to 8-bit codes, so that they are unsigned; 0: they stay signed."""


def pack(weight: Array, form: WeightForm, layout: Layout, bias: Array | None = None) -> Packed:
    """Return a matrix [out, in] in a form; float16 where blocks of 32 do not divide `in`."""
    rows, cols = weight.shape
    if form.startswith("q") and cols % _BLOCK:
        form = "fp16"
    parts = _parts(weight, form, layout)
    own_bias = None if bias is None else np.ascontiguousarray(bias, np.float32)
    arrays = [*parts, own_bias]
    pointers = [None if array is None else array.ctypes.data for array in arrays]
    struct = Matrix(WEIGHT_FORMS[form], rows, cols, 0, *pointers)
    return Packed(struct, tuple(array for array in arrays if array is not None))


def _parts(
    weight: Array, form: WeightForm, layout: Layout
) -> tuple[Array, Array | None, Array | None]:
    """Return data, scales and minima."""
    if form == "fp32":
        return np.array(weight, np.float32, order="C"), None, None
    if form == "fp16":
        return _half(weight), None, None
    wide = np.asarray(weight, np.float32)
    if form == "q8":
        signed, scales = quantize_q8_0(wide)
        eights = signed.view(np.uint8) + np.uint8(layout.offset)
        return _interleaved(eights, layout.lanes), _by_lanes(scales, layout.lanes), None
    if form == "q4_0":
        fours, scales = quantize_q4_0(wide)
        minima = (scales * np.float16(-8)).astype(np.float16)
    else:
        fours, scales, minima = quantize_q4_1(wide)
    nibbles = _interleaved(_paired(fours), layout.lanes)
    return nibbles, _by_lanes(scales, layout.lanes), _by_lanes(minima, layout.lanes)


def _paired(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Put columns i and i + 16 of each block of 32 codes into one byte."""
    blocks = codes.reshape(len(codes), -1, 2, _BLOCK // 2)
    high = blocks[:, :, 1] << np.uint8(4)
    packed: npt.NDArray[np.uint8] = np.bitwise_or(blocks[:, :, 0], high, dtype=np.uint8)
    return packed.reshape(len(codes), -1)


def _interleaved(codes: npt.NDArray[np.uint8], lanes: int) -> npt.NDArray[np.uint8]:
    """Put four columns of each of `lanes` rows side by side: [rows / lanes, cols / 4, lanes, 4]."""
    quads = _filled(codes, lanes).reshape(-1, lanes, codes.shape[1] // 4, 4)
    return np.ascontiguousarray(quads.transpose(0, 2, 1, 3))


def _by_lanes(scales: Array, lanes: int) -> Array:
    """Return scales [rows / lanes, blocks, lanes]."""
    return np.ascontiguousarray(_filled(scales, lanes).reshape(-1, lanes, scales.shape[1]).mT)


def _filled(values: Array, lanes: int) -> Array:
    """Add rows of zeros up to a multiple of `lanes`."""
    missing = -len(values) % lanes
    return np.pad(values, ((0, missing), (0, 0))) if missing else values


def _half(weight: Array) -> Array:
    with np.errstate(over="ignore"):  # found below, and named
        half = np.asarray(weight, np.float32).astype(np.float16)
    if not np.isfinite(half).all():
        raise SettingsError(
            "A weight is larger than float16 can express (65504); hold the model in fp32 or q8."
        )
    return half
