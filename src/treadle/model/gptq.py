"""The format of GPTQ's tools: codes packed along the inputs, with an order of groups."""

import numpy as np
import numpy.typing as npt

from treadle.core.checkpoint import CheckpointReader, require_finite
from treadle.core.errors import CheckpointError, UnsupportedModelError
from treadle.model.grid import Config, Grid, bits_at, require_kind, require_shape, unpack

__all__ = ["Gptq"]

_FORMATS = ("gptq", "gptq_v2")


class Gptq:
    """``X.qweight`` [in * bits / 32, out], ``X.qzeros`` [groups, out * bits / 32], ``X.scales``.

    ``X.g_idx`` [in] names the group of each column; in the first format zero points are stored
    less one, in the second (`gptq_v2`) as they are.
    """

    suffixes = (".qweight", ".qzeros", ".scales", ".g_idx")

    def __init__(self, reader: CheckpointReader, config: Config) -> None:
        found = str(config.get("checkpoint_format", "gptq"))
        if found not in _FORMATS:
            raise UnsupportedModelError(
                f"config.json of '{reader.folder}' says checkpoint_format '{found}', but "
                f"{', '.join(_FORMATS)} are read; save the model in one of these."
            )
        self._shift = int(found == "gptq")
        self._group_size = int(config.get("group_size", -1))

    def shape(self, reader: CheckpointReader, stem: str) -> tuple[int, int]:
        """Return [out, in] of a matrix, read off its headers."""
        packed, num_outputs = require_kind(reader, f"{stem}.qweight", "packed codes")
        return num_outputs, packed * 32 // self._num_bits(reader, stem, num_outputs)

    def grid(self, reader: CheckpointReader, stem: str) -> Grid:
        """Unpack a matrix."""
        num_outputs, num_inputs = self.shape(reader, stem)
        num_bits = self._num_bits(reader, stem, num_outputs)
        num_groups = reader.tensors[f"{stem}.qzeros"].shape[0]
        scales = require_shape(reader, f"{stem}.scales", (num_groups, num_outputs), "floats")
        require_finite(f"{stem}.scales", scales, reader.folder)
        codes = unpack(reader.array(f"{stem}.qweight").T, num_bits)
        zeros = unpack(reader.array(f"{stem}.qzeros"), num_bits)[:, :num_outputs]
        shifted = (zeros + np.uint8(self._shift)) & np.uint8((1 << num_bits) - 1)
        groups = self._groups(reader, stem, num_inputs, num_groups)
        return Grid(codes, shifted.T, scales.T, groups, num_bits)

    def _num_bits(self, reader: CheckpointReader, stem: str, num_outputs: int) -> int:
        name = f"{stem}.qzeros"
        return bits_at(reader, name, require_kind(reader, name, "packed codes")[1], num_outputs)

    def _groups(
        self, reader: CheckpointReader, stem: str, num_inputs: int, num_groups: int
    ) -> npt.NDArray[np.int64]:
        name = f"{stem}.g_idx"
        if name not in reader.tensors:
            size = self._group_size if self._group_size > 0 else num_inputs
            groups = np.arange(num_inputs) // size
        else:
            groups = require_shape(reader, name, (num_inputs,), "whole numbers").astype(np.int64)
        if groups.min() < 0 or groups.max() >= num_groups:
            raise CheckpointError(
                f"Matrix '{stem}' in '{reader.folder}' names group {groups.max()}, but has scales "
                f"of {num_groups}; check group_size in config.json, or download it again."
            )
        return groups
