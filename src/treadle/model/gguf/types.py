"""The types of tensors in GGUF files: how many numbers stand in how many bytes, and as floats."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.codec import DTYPES, Array
from treadle.native.blocks import TYPES
from treadle.native.codes import decode_blocks, decode_q4_0, decode_q4_1, decode_q8_0

__all__ = ["PLAIN", "TENSOR_TYPES", "TensorType", "form_of", "name_of_type", "numbers"]

_DECODE = {"Q8_0": decode_q8_0, "Q4_0": decode_q4_0, "Q4_1": decode_q4_1}
_ROWS_AT_A_TIME = 64
"""Of types that the gguf package decodes, whose intermediate arrays are large."""


class TensorType(NamedTuple):
    """A type of tensors."""

    name: str
    block: int
    """Numbers that are stored together."""
    block_bytes: int


def _of_blocks(kind: str) -> TensorType:
    return TensorType(kind.upper(), TYPES[kind].columns, TYPES[kind].block_bytes)


PLAIN = ("F32", "F16", "BF16")
"""Types that are floats, one by one."""
TENSOR_TYPES = {
    0: TensorType("F32", 1, 4),
    1: TensorType("F16", 1, 2),
    30: TensorType("BF16", 1, 2),
    8: TensorType("Q8_0", 32, 34),
    2: TensorType("Q4_0", 32, 18),
    3: TensorType("Q4_1", 32, 20),
    6: _of_blocks("q5_0"),
    7: _of_blocks("q5_1"),
    10: _of_blocks("q2_k"),
    11: _of_blocks("q3_k"),
    12: _of_blocks("q4_k"),
    13: _of_blocks("q5_k"),
    14: _of_blocks("q6_k"),
    15: _of_blocks("q8_k"),
    20: _of_blocks("iq4_nl"),
    23: _of_blocks("iq4_xs"),
    39: _of_blocks("mxfp4"),
    # Those below are decoded by the gguf package.
    16: TensorType("IQ2_XXS", 256, 66),
    17: TensorType("IQ2_XS", 256, 74),
    22: TensorType("IQ2_S", 256, 82),
    18: TensorType("IQ3_XXS", 256, 98),
    21: TensorType("IQ3_S", 256, 110),
    19: TensorType("IQ1_S", 256, 50),
    29: TensorType("IQ1_M", 256, 56),
    34: TensorType("TQ1_0", 256, 54),
    35: TensorType("TQ2_0", 256, 66),
}
"""GGUF's number of a type -> type."""


def name_of_type(number: int) -> str:
    """Return what ggml calls a type, whether it is read or not."""
    from gguf import GGMLQuantizationType

    known = {int(member): str(member.name) for member in GGMLQuantizationType}
    return known.get(number, f"number {number}")


def form_of(kind: str) -> str | None:
    """Return the name in `native.blocks` of a type that has one."""
    return kind.lower() if kind.lower() in TYPES else None


def numbers(kind: str, raw: npt.NDArray[np.uint8]) -> Array:
    """Return the numbers of a tensor [rows, cols]: of codes in float32, else as they are stored.

    Args:
        kind: The name of its type.
        raw: [rows, bytes of a row]
    """
    if kind in PLAIN:
        return raw.reshape(-1).view(DTYPES[kind]).reshape(len(raw), -1)
    form = form_of(kind)
    if form is not None:
        return decode_blocks(form, raw)
    return _DECODE[kind](raw) if kind in _DECODE else _decoded_by_package(kind, raw)


def _decoded_by_package(kind: str, raw: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    said = next(said for said in TENSOR_TYPES.values() if said.name == kind)
    target = np.empty((len(raw), raw.shape[1] // said.block_bytes * said.block), np.float32)
    for first in range(0, len(raw), _ROWS_AT_A_TIME):
        rows = slice(first, first + _ROWS_AT_A_TIME)
        target[rows] = dequantize(np.ascontiguousarray(raw[rows]), GGMLQuantizationType[kind])
    return target
