"""Weights as the native step reads them: float32, float16, 8 or 4 bits, in plain arrays."""

import ctypes
from typing import Literal, NamedTuple

import numpy as np

from treadle.core.codec import Array, quantize_q4_0, quantize_q4_1, quantize_q8_0
from treadle.core.errors import SettingsError
from treadle.core.registry import near
from treadle.model.coded import BLOCK, Coded, pair_codes
from treadle.native.codes import interleave, widen
from treadle.native.pointers import OwningStructure
from treadle.runtime.linear.arena import Arena
from treadle.runtime.typed import text

__all__ = [
    "AUTO",
    "WEIGHT_FORMS",
    "Matrix",
    "Packed",
    "PackedLayout",
    "Room",
    "WeightForm",
    "pack",
    "pack_codes",
    "require_form",
]

WeightForm = Literal["fp32", "fp16", "q8", "q4_0", "q4_1"]
WEIGHT_FORMS = {"fp32": 0, "fp16": 1, "q8": 2, "q4_0": 3, "q4_1": 3}
"""Form -> the type that step_matrix.h knows; 4-bit codes differ only in their minima."""
AUTO = "auto"
"""The wish for what is stored: codes as they are, floats of quantised models in their width."""


class Matrix(OwningStructure):
    """The struct Matrix of step_matrix.h."""

    _fields_ = (
        ("type", ctypes.c_int32),
        ("rows", ctypes.c_int32),
        ("cols", ctypes.c_int32),
        ("unused", ctypes.c_int32),
        ("data", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("minima", ctypes.c_void_p),
        ("factors", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    )
    _points_to_ = (("u2", ("scales", "minima")), ("u1", ("factors",)), ("f4", ("bias",)))


class Packed(NamedTuple):
    """A matrix as C reads it, and its arrays."""

    struct: Matrix
    arrays: tuple[Array, ...]

    @property
    def num_bytes(self) -> int:
        """The bytes that one product with a vector reads."""
        return sum(array.nbytes for array in self.arrays)


def require_form(form: str) -> WeightForm | Literal["auto"]:
    """Return `form` if weights can be held in it, or `auto`.

    Raises:
        SettingsError: They cannot.
    """
    if text("weights", form) not in WEIGHT_FORMS and form != AUTO:
        raise SettingsError(f"No weight form '{form}'. {near(form, [AUTO, *WEIGHT_FORMS])}")
    return form  # type: ignore[return-value]


class PackedLayout(NamedTuple):
    """How the machine's kernel wants weights."""

    lanes: int
    """Rows that are interleaved."""
    offset: int
    """What is added to 8-bit codes, so that they are unsigned; 0: they stay signed."""


class Room:
    """Where packed matrices lie: what is multiplied one after another, and scales elsewhere."""

    def __init__(self) -> None:
        self.data, self.scales = Arena(), Arena()


def pack(
    weight: Array, form: WeightForm, layout: PackedLayout, room: Room, bias: Array | None = None
) -> Packed:
    """Return a matrix [out, in] in a form; float16 where blocks of 32 do not divide `in`."""
    rows, cols = weight.shape
    form = _fitting(form, cols)
    return _packed(form, rows, cols, _parts(weight, form, layout, room), bias)


def pack_codes(coded: Coded, layout: PackedLayout, room: Room, bias: Array | None = None) -> Packed:
    """Return a matrix of the codes and scales that a checkpoint stores, none of them changed."""
    rows, cols = coded.scales.shape[0], coded.scales.shape[1] * BLOCK
    return _packed(coded.form, rows, cols, _code_parts(coded, layout, room), bias)


def _fitting(form: WeightForm, cols: int) -> WeightForm:
    return "fp16" if form.startswith("q") and cols % BLOCK else form


def _packed(
    form: WeightForm,
    rows: int,
    cols: int,
    parts: tuple[Array, Array | None, Array | None],
    bias: Array | None,
) -> Packed:
    own_bias = None if bias is None else np.ascontiguousarray(bias, np.float32)
    arrays = [*parts, None, own_bias]
    struct = Matrix(WEIGHT_FORMS[form], rows, cols, 0, *arrays)
    return Packed(struct, tuple(array for array in arrays if array is not None))


def _parts(
    weight: Array, form: WeightForm, layout: PackedLayout, room: Room
) -> tuple[Array, Array | None, Array | None]:
    """Return data, scales and minima."""
    if form == "fp32" and weight.dtype.itemsize == 2:
        return _widened(weight, layout.lanes, room.data), None, None
    if form == "fp32":
        return _by_lanes(np.asarray(weight, np.float32), layout.lanes, room.data), None, None
    if form == "fp16":
        return _by_lanes(_half(weight), layout.lanes, room.data), None, None
    with np.errstate(over="ignore", invalid="ignore"):  # found below, and named
        coded = _rounded(np.asarray(weight, np.float32), form)
    for part in (coded.scales, coded.minima):
        if part is not None and not np.isfinite(part).all():
            raise SettingsError(
                f"A block of weights is larger than the float16 scales of {form} can express; hold "
                f"the model in fp32."
            )
    return _code_parts(coded, layout, room)


def _rounded(wide: Array, form: WeightForm) -> Coded:
    """Return a matrix rounded to the nearest codes."""
    if form == "q8":
        codes, scales = quantize_q8_0(wide)
        return Coded(form, codes.reshape(*scales.shape, BLOCK), scales, None)
    if form == "q4_0":
        fours, scales = quantize_q4_0(wide)
        minima = (scales * np.float16(-8)).astype(np.float16)
        return Coded(form, pair_codes(fours), scales, minima)
    fours, scales, minima = quantize_q4_1(wide)
    return Coded("q4_1", pair_codes(fours), scales, minima)


def _code_parts(
    coded: Coded, layout: PackedLayout, room: Room
) -> tuple[Array, Array, Array | None]:
    """Return data, scales and minima."""
    lanes = layout.lanes
    scales = _by_lanes(coded.scales, lanes, room.scales)
    minima = None if coded.minima is None else _by_lanes(coded.minima, lanes, room.scales)
    # Four columns of a row stay together, whatever lies between the blocks.
    own = coded.codes if coded.codes.strides[-1] == 1 else np.ascontiguousarray(coded.codes)
    codes = _interleaved(own.view(np.uint32), lanes, room.data).view(np.uint8)
    if coded.form == "q8":
        codes += np.uint8(layout.offset)
    return codes, scales, minima


def _by_lanes(values: Array, lanes: int, arena: Arena) -> Array:
    """Put one column of each of `lanes` rows side by side: [groups, 1, cols, lanes]."""
    is_run = values.strides[1] == values.itemsize
    found = _interleaved(values[:, None] if is_run else values[:, :, None], lanes, arena)
    return found.reshape(len(found), 1, -1, lanes)


def _widened(values: Array, lanes: int, arena: Arena) -> Array:
    """Do the same with floats of 16 bits, in float32."""
    rows, cols = values.shape
    target = arena.take((-(-rows // lanes), 1, cols, lanes), np.float32)
    widen(values, target[:, 0])
    return target


def _interleaved(values: Array, lanes: int, arena: Arena) -> Array:
    rows, blocks, items = values.shape
    target = arena.take((-(-rows // lanes), blocks, items, lanes), values.dtype)
    interleave(values, target)
    return target


def _half(weight: Array) -> Array:
    if weight.dtype == np.float16:
        return weight
    with np.errstate(over="ignore"):  # found below, and named
        half = np.asarray(weight, np.float32).astype(np.float16)
    if not np.isfinite(half).all():
        raise SettingsError(
            "A weight is larger than float16 can express (65504); hold the model in fp32 or q8."
        )
    return half
