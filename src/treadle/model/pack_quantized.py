"""compressed-tensors' pack-quantized: weight-only integers, packed along the inputs."""

import numpy as np
import numpy.typing as npt

from treadle.core.checkpoint import CheckpointReader, require_finite
from treadle.core.errors import CheckpointError, UnsupportedModelError
from treadle.model.grid import Config, Grid, bits_at, require_kind, require_shape, unpack

__all__ = ["PackQuantized"]

_FORMAT = "pack-quantized"
_STRATEGIES = ("group", "channel", "tensor")


class PackQuantized:
    """``X.weight_packed`` [out, in * bits / 32], ``X.weight_scale`` [out, groups], and others.

    ``X.weight_shape`` says [out, in]; ``X.weight_zero_point`` [out * bits / 32, groups] is there
    where codes have one; ``X.weight_g_idx`` [in] where groups are no runs of columns.
    """

    suffixes = (
        ".weight_packed",
        ".weight_scale",
        ".weight_shape",
        ".weight_zero_point",
        ".weight_g_idx",
    )

    def __init__(self, reader: CheckpointReader, config: Config) -> None:
        groups = config.get("config_groups") or {}
        formats = {str(config.get("format"))} | {
            str(group["format"]) for group in groups.values() if group.get("format")
        }
        weights = [group.get("weights") or {} for group in groups.values()]
        self._group_sizes = sorted({int(w["group_size"]) for w in weights if w.get("group_size")})
        self._num_bits = sorted({int(w["num_bits"]) for w in weights if w.get("num_bits")})
        refused = [
            *(f"format '{name}'" for name in sorted(formats - {_FORMAT})),
            *(f"weights of type '{w.get('type')}'" for w in weights if w.get("type") != "int"),
            *(
                f"strategy '{w.get('strategy')}'"
                for w in weights
                if w.get("strategy") not in _STRATEGIES
            ),
            *("quantised activations" for g in groups.values() if g.get("input_activations")),
            *("a kv_cache_scheme" for _ in [0] if config.get("kv_cache_scheme")),
            *("a transform_config" for _ in [0] if config.get("transform_config")),
        ]
        if refused:
            raise UnsupportedModelError(
                f"config.json of '{reader.folder}' describes {refused[0]} of compressed-tensors, "
                f"but weight-only {_FORMAT} integers are read; give the unquantised model, or "
                f"quantise it with the scheme W4A16 or W8A16."
            )

    def shape(self, reader: CheckpointReader, stem: str) -> tuple[int, int]:
        """Return [out, in] of a matrix."""
        name, packed = f"{stem}.weight_shape", f"{stem}.weight_packed"
        num_outputs, num_inputs = require_shape(reader, name, (2,), "whole numbers").tolist()
        found = require_kind(reader, packed, "packed codes")
        if found[0] != num_outputs:
            require_shape(reader, packed, (num_outputs, *found[1:]), "packed codes")
        return num_outputs, num_inputs

    def grid(self, reader: CheckpointReader, stem: str) -> Grid:
        """Unpack a matrix."""
        num_outputs, num_inputs = self.shape(reader, stem)
        packed = f"{stem}.weight_packed"
        num_bits = bits_at(reader, packed, reader.tensors[packed].shape[1], num_inputs)
        if self._num_bits and num_bits not in self._num_bits:
            raise CheckpointError(
                f"Tensor '{packed}' in '{reader.folder}' packs codes of {num_bits} bits, but "
                f"config.json says num_bits {' or '.join(map(str, self._num_bits))}; download both "
                f"again from one place."
            )
        codes = unpack(reader.array(packed), num_bits)[:, :num_inputs]
        name = f"{stem}.weight_scale"
        num_rows, num_groups = require_kind(reader, name, "floats")
        rows = num_outputs if num_rows != 1 else 1  # one scale of the whole matrix
        scales = require_shape(reader, name, (rows, num_groups), "floats")
        require_finite(name, scales, reader.folder)
        zeros = self._zeros(reader, stem, (rows, num_groups), num_bits)
        everywhere = (num_outputs, num_groups)
        groups = self._groups(reader, stem, num_inputs, num_groups)
        return Grid(
            codes,
            np.broadcast_to(zeros, everywhere),
            np.broadcast_to(scales, everywhere),
            groups,
            num_bits,
        )

    def _zeros(
        self, reader: CheckpointReader, stem: str, shape: tuple[int, int], num_bits: int
    ) -> npt.NDArray[np.uint8]:
        middle, name = 1 << (num_bits - 1), f"{stem}.weight_zero_point"
        if name not in reader.tensors:
            return np.full(shape, middle, np.uint8)
        if reader.tensors[name].dtype == "I8":  # not packed
            return (
                require_shape(reader, name, shape, "whole numbers").astype(np.int16) + middle
            ).astype(np.uint8)
        packed_rows = -(-shape[0] * num_bits // 32)
        packed = require_shape(reader, name, (packed_rows, shape[1]), "packed codes")
        return unpack(packed.T, num_bits)[:, : shape[0]].T

    def _groups(
        self, reader: CheckpointReader, stem: str, num_inputs: int, num_groups: int
    ) -> npt.NDArray[np.int64]:
        name = f"{stem}.weight_g_idx"
        if name in reader.tensors:
            groups = require_shape(reader, name, (num_inputs,), "whole numbers").astype(np.int64)
            if groups.min() >= 0 and groups.max() < num_groups:
                return groups
        else:
            for size in (*self._group_sizes, num_inputs):
                if -(-num_inputs // size) == num_groups:
                    return np.arange(num_inputs) // size
        raise CheckpointError(
            f"Matrix '{stem}' in '{reader.folder}' has scales of {num_groups} groups, which do "
            f"not fit its {num_inputs} columns; download the checkpoint again."
        )
