"""Folders with a quantization_config: codes on grids, unpacked by their format.

Read are compressed-tensors' pack-quantized, int-quantized and float-quantized, GPTQ and AWQ. Each
says how a matrix's codes, zero points and scales lie in its tensors; a weight is
``scale * (code - zero)`` in all, or a scaled float of 8 bits.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from treadle.core.checkpoint import CheckpointReader, TensorInfo
from treadle.core.codec import Array, as_numpy
from treadle.core.errors import CheckpointError, UnsupportedModelError
from treadle.model.awq import Awq
from treadle.model.coded import Coded, DecodedReader, Obstacle, Stored
from treadle.model.gptq import Gptq
from treadle.model.grid import Config, Grid, as_blocks
from treadle.model.pack_quantized import PackQuantized
from treadle.model.whole_bytes import FORMATS, ScaledFloats, WholeBytes

__all__ = ["Format", "open_quantized"]


class Format(Protocol):
    """One way to lay grids into tensors."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Of the tensors that make up a matrix; the first is there for quantised ones alone."""

    def shape(self, reader: CheckpointReader, stem: str) -> tuple[int, int]:
        """Return [out, in] of a matrix, read off its headers."""

    def grid(self, reader: CheckpointReader, stem: str) -> Grid | ScaledFloats:
        """Unpack a matrix."""


def _compressed(reader: CheckpointReader, config: Config) -> Format:
    """Return the format of compressed-tensors that a config names."""
    is_whole = config.get("format") in FORMATS
    return WholeBytes(reader, config) if is_whole else PackQuantized(reader, config)


_FORMATS: dict[str, Callable[[CheckpointReader, Config], Format]] = {
    "compressed-tensors": _compressed,
    "gptq": Gptq,
    "awq": Awq,
}
"""`quant_method` -> format."""


def open_quantized(reader: CheckpointReader) -> DecodedReader:
    """Show a quantised folder as a checkpoint of floats.

    Args:
        reader: The folder; it is closed with the result.

    Raises:
        UnsupportedModelError: The format, or one of its options, is not read.
        CheckpointError: A tensor is missing, or its shape is not what the others make it.
    """
    config = dict(reader.config)
    way = _format(reader, config.pop("quantization_config"))
    codes = way.suffixes[0]
    stems = {name.removesuffix(codes) for name in reader.tensors if name.endswith(codes)}
    if not stems:
        raise CheckpointError(
            f"config.json of '{reader.folder}' has a quantization_config, but no tensor ends in "
            f"{codes}; remove the key if the weights are plain floats."
        )
    stored: dict[str, Stored] = {}
    for name, info in reader.tensors.items():
        stem = next((name.removesuffix(s) for s in way.suffixes if name.endswith(s)), None)
        if stem not in stems:
            stored[name] = _Plain(reader, info)
        elif name.endswith(codes):
            matrix = _Quantized(reader, way, stem, _info(reader, way, stem, info))
            stored[matrix.info.name] = matrix
    return DecodedReader(reader.folder, config, stored, reader.close)


def _format(reader: CheckpointReader, config: Config) -> Format:
    method = str(config.get("quant_method", ""))
    if method not in _FORMATS:
        raise UnsupportedModelError(
            f"config.json of '{reader.folder}' says quant_method '{method}', but "
            f"{', '.join(_FORMATS)} are read; give the unquantised model, or one in these formats."
        )
    return _FORMATS[method](reader, config)


def _info(reader: CheckpointReader, way: Format, stem: str, codes: TensorInfo) -> TensorInfo:
    parts = [reader.tensors[stem + s] for s in way.suffixes if stem + s in reader.tensors]
    return codes._replace(
        name=f"{stem}.weight",
        dtype="F32",
        shape=way.shape(reader, stem),
        num_bytes=sum(part.num_bytes for part in parts),
    )


class _Plain(NamedTuple):
    """A tensor that is not quantised."""

    reader: CheckpointReader
    info: TensorInfo

    def floats(self) -> Array:
        return as_numpy(self.reader.tensor(self.info.name))

    def coded(self) -> None:
        return None

    def release(self) -> None:
        self.reader.release(self.info.name)


class _Quantized:
    """A matrix on a grid."""

    def __init__(self, reader: CheckpointReader, way: Format, stem: str, info: TensorInfo) -> None:
        self._reader, self._way, self._stem, self.info = reader, way, stem, info

    def floats(self) -> Array:
        return self._grid().floats()

    def coded(self) -> Coded | Obstacle:
        grid = self._grid()
        if isinstance(grid, ScaledFloats):
            return Obstacle("its codes are floats of 8 bits")
        return as_blocks(grid)

    def release(self) -> None:
        for suffix in self._way.suffixes:
            if self._stem + suffix in self._reader.tensors:
                self._reader.release(self._stem + suffix)

    def _grid(self) -> Grid | ScaledFloats:
        grid = self._way.grid(self._reader, self._stem)
        self.release()
        return grid
