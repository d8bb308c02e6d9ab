"""compressed-tensors' int-quantized and float-quantized: a byte a weight, and scales beside them.

What the folder says of activations is not computed with: the weights are those that it holds, and
the inputs are rounded by whoever multiplies them.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.checkpoint import CheckpointReader, require_finite
from treadle.core.codec import Array
from treadle.core.errors import CheckpointError, UnsupportedModelError
from treadle.model.grid import Config, Grid, require_kind, require_shape

__all__ = ["FORMATS", "ScaledFloats", "WholeBytes"]

FORMATS = ("int-quantized", "float-quantized")
_STRATEGIES = ("tensor", "channel", "group")
_MIDDLE = 128
"""What is added to a signed code, so that it counts from 0."""


class ScaledFloats(NamedTuple):
    """A matrix [out, in] of floats of 8 bits with scales."""

    values: Array
    """[out, in]"""
    scales: npt.NDArray[np.float32]
    """[out, groups]"""
    groups: npt.NDArray[np.int64]
    """[in]: the group of each column."""

    def floats(self) -> npt.NDArray[np.float32]:
        """Return the weights [out, in]."""
        found: npt.NDArray[np.float32] = self.values.astype(np.float32)
        found *= self.scales[:, self.groups]
        return found


class WholeBytes:
    """``X.weight`` [out, in] of I8 or F8_E4M3, and ``X.weight_scale`` of a tensor, row or group."""

    suffixes = (
        ".weight_scale",
        ".weight",
        ".weight_zero_point",
        ".input_scale",
        ".input_zero_point",
    )
    """The scales first: they tell a matrix from a tensor that is not quantised."""

    def __init__(self, reader: CheckpointReader, config: Config) -> None:
        groups = (config.get("config_groups") or {}).values()
        weights = [group.get("weights") or {} for group in groups]
        refused = [
            *(f"weights of {w.get('num_bits')} bits" for w in weights if w.get("num_bits") != 8),
            *(
                f"strategy '{w.get('strategy')}'"
                for w in weights
                if w.get("strategy") not in _STRATEGIES
            ),
            *("a kv_cache_scheme" for _ in [0] if config.get("kv_cache_scheme")),
            *("a transform_config" for _ in [0] if config.get("transform_config")),
        ]
        if refused:
            raise UnsupportedModelError(
                f"config.json of '{reader.folder}' describes {refused[0]} of compressed-tensors' "
                f"{config.get('format')}, but weights of 8 bits with scales of tensors, rows or "
                f"groups are read; give the unquantised model."
            )

    def shape(self, reader: CheckpointReader, stem: str) -> tuple[int, int]:
        """Return [out, in] of a matrix, read off its headers."""
        num_outputs, num_inputs = require_kind(reader, f"{stem}.weight", "codes of a byte")
        return num_outputs, num_inputs

    def grid(self, reader: CheckpointReader, stem: str) -> Grid | ScaledFloats:
        """Read a matrix."""
        shape, name = self.shape(reader, stem), f"{stem}.weight"
        scales = self._scales(reader, stem, shape)
        groups = np.arange(shape[1]) // (shape[1] // scales.shape[1])
        codes = reader.array(name)
        if codes.dtype != np.int8:
            return ScaledFloats(codes, scales.astype(np.float32), groups)
        zeros = self._zeros(reader, stem, scales.shape)
        return Grid(codes.view(np.uint8) ^ np.uint8(_MIDDLE), zeros, scales, groups, 8)

    def _scales(self, reader: CheckpointReader, stem: str, shape: tuple[int, int]) -> Array:
        name = f"{stem}.weight_scale"
        found = reader.tensors[name].shape
        require_kind(reader, name, "floats", len(found))
        num_outputs, num_inputs = shape
        by_row = len(found) in (1, 2) and found[0] == num_outputs
        num_groups = found[1] if by_row and len(found) == 2 else 1
        if np.prod(found, dtype=int) != 1 and (not by_row or num_inputs % num_groups):
            raise CheckpointError(
                f"Tensor '{name}' in '{reader.folder}' has shape {list(found)}, but one scale, or "
                f"one or several for each of {num_outputs} rows of {num_inputs} columns were "
                f"expected; download the checkpoint again."
            )
        scales = reader.array(name)
        require_finite(name, scales, reader.folder)
        rows = num_outputs if by_row else 1
        return np.broadcast_to(scales.reshape(rows, num_groups), (num_outputs, num_groups))

    def _zeros(
        self, reader: CheckpointReader, stem: str, shape: tuple[int, ...]
    ) -> npt.NDArray[np.uint8]:
        name = f"{stem}.weight_zero_point"
        if name not in reader.tensors:
            return np.full(shape, _MIDDLE, np.uint8)
        said = reader.tensors[name].shape
        points = require_shape(reader, name, said, "whole numbers").astype(np.int16)
        if points.size not in (1, shape[0], shape[0] * shape[1]):
            raise CheckpointError(
                f"Tensor '{name}' in '{reader.folder}' has shape {list(said)}, but its scales make "
                f"it {list(shape)}; download the checkpoint again."
            )
        rows = points.reshape(-1, shape[1]) if points.size > 1 else points.reshape(1, 1)
        return np.broadcast_to((rows + _MIDDLE).astype(np.uint8), shape)
