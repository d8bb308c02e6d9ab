"""The format of AWQ's tools (gemm): codes packed along the outputs, in an order of their own."""

import numpy as np
import numpy.typing as npt

from treadle.core.checkpoint import CheckpointReader, require_finite
from treadle.core.codec import Array
from treadle.core.errors import CheckpointError, UnsupportedModelError
from treadle.model.grid import Config, Grid, require_kind, require_shape, unpack

__all__ = ["Awq"]

_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Which nibble of a number holds each of eight outputs."""


class Awq:
    """``X.qweight`` [in, out / 8], ``X.qzeros`` [groups, out / 8], ``X.scales`` [groups, out]."""

    suffixes = (".qweight", ".qzeros", ".scales")

    def __init__(self, reader: CheckpointReader, config: Config) -> None:
        version, num_bits = str(config.get("version", "gemm")).lower(), config.get("bits", 4)
        if version != "gemm" or num_bits != 4:
            raise UnsupportedModelError(
                f"config.json of '{reader.folder}' says AWQ version '{version}' of {num_bits} "
                f"bits, but gemm of 4 bits is read; save the model as that."
            )

    def shape(self, reader: CheckpointReader, stem: str) -> tuple[int, int]:
        """Return [out, in] of a matrix, read off its headers."""
        num_inputs, packed = require_kind(reader, f"{stem}.qweight", "packed codes")
        return packed * 8, num_inputs

    def grid(self, reader: CheckpointReader, stem: str) -> Grid:
        """Unpack a matrix."""
        num_outputs, num_inputs = self.shape(reader, stem)
        packed = reader.tensors[f"{stem}.qweight"].shape[1]
        name = f"{stem}.scales"
        num_groups, _ = require_kind(reader, name, "floats")
        scales = require_shape(reader, name, (num_groups, num_outputs), "floats")
        require_finite(name, scales, reader.folder)
        if num_inputs % num_groups:
            raise CheckpointError(
                f"Tensor '{name}' in '{reader.folder}' has {num_groups} groups, which do not "
                f"divide {num_inputs} inputs; download the checkpoint again."
            )
        zeros = require_shape(reader, f"{stem}.qzeros", (num_groups, packed), "packed codes")
        groups = np.arange(num_inputs) // (num_inputs // num_groups)
        codes = _ordered(reader.array(f"{stem}.qweight"))
        return Grid(codes.T, _ordered(zeros).T, scales.T, groups, 4)


def _ordered(packed: Array) -> npt.NDArray[np.uint8]:
    """Unpack numbers [rows, out / 8] into codes [rows, out]."""
    nibbles = unpack(packed, 4).reshape(len(packed), -1, 8)
    return nibbles[:, :, list(_PLACES)].reshape(len(packed), -1)
