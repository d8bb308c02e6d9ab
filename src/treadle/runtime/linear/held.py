"""The weights of one native model: packed one by one, and counted."""

import warnings
from typing import Literal

import numpy as np

from treadle.core.checkpoint import CheckpointReader, require_finite
from treadle.core.codec import Array
from treadle.core.errors import SettingsError
from treadle.model.coded import Coded, DecodedReader, Obstacle, RawBlocks
from treadle.native.loader import SlowPathWarning
from treadle.runtime.executor import Executor
from treadle.runtime.linear.blocks import BLOCK_FORMS, pack_blocks
from treadle.runtime.linear.packed import (
    AUTO,
    Packed,
    PackedLayout,
    Room,
    WeightForm,
    pack,
    pack_codes,
)

__all__ = ["HeldWeights", "held_bytes", "held_forms"]


class HeldWeights:
    """Packs a model's tensors.

    Args:
        form: How matrices are held; auto: codes as they are stored, float16 as float16 where the
            model is quantised, and everything else in float32.
        layout: How the machine's kernel wants quantised weights.
        is_finite: Whether all numbers are known to be finite, and need not be looked at.

    Attributes:
        num_bytes: Bytes of all that was packed.
        num_weights: Numbers of all matrices.
        forms: The forms that matrices are held in.
        is_rounded: Whether a matrix was rounded to codes here.
    """

    def __init__(
        self, form: WeightForm | Literal["auto"], layout: PackedLayout, is_finite: bool = False
    ) -> None:
        self._form, self._layout, self._is_finite = form, layout, is_finite
        self._room = Room()
        self._decoded: list[tuple[str, str]] = []
        self.num_bytes = self.num_weights = 0
        self.forms: set[str] = set()
        self.is_rounded = False

    def matrix(self, reader: CheckpointReader, name: str, bias: str | None) -> Packed:
        """Pack a matrix, with its bias where it has one."""
        own_bias = reader.array(bias) if bias is not None and bias in reader.tensors else None
        coded = self._codes(reader, name)
        if coded is not None:
            packed = self._packed(reader, name, coded, own_bias)
            self.forms.add(coded.form)
        else:
            packed = self._floats(reader, name, own_bias)
        reader.release(name)
        self.num_bytes += packed.num_bytes
        self.num_weights += packed.struct.rows * packed.struct.cols
        return packed

    def vector(
        self, reader: CheckpointReader, name: str, is_optional: bool = False
    ) -> Array | None:
        """Return a vector in float32; None where it may be absent and is."""
        if is_optional and name not in reader.tensors:
            return None
        self._require_finite(name, reader.array(name), reader)
        found = np.array(reader.array(name), np.float32, order="C")
        self.num_bytes += found.nbytes
        return found

    def discount(self, packed: Packed) -> None:
        """Leave a matrix out of the counts: a token reads one row of it only."""
        self.num_bytes -= packed.num_bytes
        self.num_weights -= packed.struct.rows * packed.struct.cols

    def warn(self, reader: CheckpointReader) -> None:
        """Say once which matrices lost their codes, if any did."""
        if self._decoded:
            name, reason = self._decoded[0]
            warnings.warn(
                f"{len(self._decoded)} quantised matrices of '{reader.folder}' are held as "
                f"floats of 16 bits, slower than codes (first '{name}': {reason}). Blocks of 32 "
                f"columns hold 4-bit codes in groups of a multiple of 32 columns, and 8-bit codes "
                f"without zero points; or choose weights='q8'.",
                SlowPathWarning,
                stacklevel=2,
            )

    def _codes(self, reader: CheckpointReader, name: str) -> Coded | RawBlocks | None:
        """Return the stored codes, where they are what is wished for."""
        found = reader.coded(name) if isinstance(reader, DecodedReader) else None
        if isinstance(found, RawBlocks) and found.form not in BLOCK_FORMS:
            found = Obstacle(f"{found.form} is not multiplied as it lies")
        if isinstance(found, Obstacle):
            if self._form == AUTO:
                self._decoded.append((name, found.reason))
            return None
        if found is None or self._form not in (AUTO, found.form):
            return None
        parts = () if isinstance(found, RawBlocks) else (found.scales, found.minima)
        for part in parts:
            if part is not None:
                self._require_finite(name, part, reader)
        return found

    def _packed(
        self, reader: CheckpointReader, name: str, coded: Coded | RawBlocks, bias: Array | None
    ) -> Packed:
        if isinstance(coded, Coded):
            return pack_codes(coded, self._layout, self._room, bias)
        packed = pack_blocks(coded, self._layout, self._room, bias)
        self._require_finite(name, packed.arrays[1].view(np.float16), reader)  # its scales
        return packed

    def _floats(self, reader: CheckpointReader, name: str, bias: Array | None) -> Packed:
        stored = reader.tensors[name]
        self._require_finite(name, reader.array(name), reader)
        form: WeightForm = self._own_form(reader, name) if self._form == "auto" else self._form
        try:
            packed = pack(reader.array(name), form, self._layout, self._room, bias)
        except SettingsError as error:
            raise SettingsError(f"Tensor '{name}' in '{stored.file}': {error}") from error
        has_codes = packed.struct.scales is not None
        self.is_rounded |= has_codes
        self.forms.add(form if has_codes or not form.startswith("q") else "fp16")
        return packed

    def _require_finite(self, name: str, values: Array, reader: CheckpointReader) -> None:
        if not self._is_finite:
            require_finite(name, values, reader.tensors[reader.tied.get(name, name)].file)

    def _own_form(self, reader: CheckpointReader, name: str) -> WeightForm:
        if not isinstance(reader, DecodedReader):
            return "fp32"
        was_decoded = bool(self._decoded) and self._decoded[-1][0] == name
        return "fp16" if was_decoded or reader.tensors[name].dtype == "F16" else "fp32"


def held_forms(executor: Executor) -> str:
    """Return the forms in which an executor holds a model's matrices."""
    held = getattr(executor, "weights", None)
    return ", ".join(sorted(held.forms)) if isinstance(held, HeldWeights) else "fp32"


def held_bytes(executor: Executor) -> int:
    """Return the bytes of a model's weights as an executor holds them; 0 where it has none."""
    return int(getattr(executor, "weight_bytes", 0))
