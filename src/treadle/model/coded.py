"""Models whose matrices are stored as codes: shown as floats to all, as codes to who can use them.

A quantised file or folder is opened as a `DecodedReader`. It reads like any checkpoint, each
tensor in the words and shapes of transformers and decoded when it is asked for; `coded` hands out
the codes as they are stored, so that nothing is rounded a second time.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from treadle.core.checkpoint import CheckpointReader, TensorInfo
from treadle.core.codec import Array
from treadle.core.errors import CheckpointError

__all__ = [
    "BLOCK",
    "CodeForm",
    "Coded",
    "DecodedReader",
    "Obstacle",
    "RawBlocks",
    "Stored",
    "pair_codes",
]

BLOCK = 32
"""Columns that share a scale in the forms of `Coded`."""
CodeForm = Literal["q8", "q4_0", "q4_1"]


class Coded(NamedTuple):
    """A matrix [rows, cols] as codes: ``scale * code + minimum``, in blocks of 32 columns.

    Its minima stand in `q4_0` too: -8 scales.
    """

    form: CodeForm
    codes: Array
    """[rows, cols / 32, bytes of a block]: int8 of each column in q8; of 4 bits uint8, as
    `pair_codes` puts them. Rows and blocks may lie anywhere, also between scales in a file."""
    scales: npt.NDArray[np.float16]
    """[rows, cols / 32]"""
    minima: npt.NDArray[np.float16] | None
    """The same shape; None in q8."""


class RawBlocks(NamedTuple):
    """A matrix as the blocks of a GGUF file, as they lie in it (see `native.blocks`)."""

    form: str
    """One of `native.blocks.TYPES`, such as q4_k."""
    raw: npt.NDArray[np.uint8]
    """[rows, bytes of a row]; a view over the file, except where its rows had to be reordered."""
    cols: int


class Obstacle(NamedTuple):
    """Why a matrix that is stored as codes cannot be handed out as `Coded`."""

    reason: str


class Stored(Protocol):
    """One tensor of a quantised checkpoint."""

    @property
    def info(self) -> TensorInfo:
        """Where it lies, with the shape and dtype of what `floats` returns."""

    def floats(self) -> Array:
        """Return its values."""

    def coded(self) -> Coded | RawBlocks | Obstacle | None:
        """Return its codes, why they cannot be had, or None where it is stored as floats."""

    def release(self) -> None:
        """Let its bytes of the file leave memory; views stay valid and read the file again."""


class DecodedReader(CheckpointReader):
    """A checkpoint whose tensors are decoded when they are read; the last one stays in memory."""

    def __init__(
        self,
        source: Path,
        config: dict[str, Any],  # Any: JSON values
        stored: Mapping[str, Stored],
        close: Callable[[], None],
    ) -> None:
        """Show `stored` under its names.

        Args:
            source: The file or folder.
            config: What config.json would say of the model, were it not quantised.
            stored: Name in the words of transformers -> tensor.
            close: Lets go of the files.
        """
        self.folder, self.config = source, config
        self.tensors = {name: tensor.info for name, tensor in stored.items()}
        self._stored, self._close = stored, close
        self._last: tuple[str, Array] | None = None

    def coded(self, name: str) -> Coded | RawBlocks | Obstacle | None:
        """Return a matrix's codes, why they cannot be had, or None where it is stored as floats."""
        return self._stored[self.tied.get(name, name)].coded()

    def release(self, name: str) -> None:
        """Let go of a tensor's decoded values, and let its bytes of the file leave memory."""
        self._last = None
        self._stored[self.tied.get(name, name)].release()

    def close(self) -> None:
        """Let go of the files; what was handed out stays valid."""
        self._last = None
        self._close()

    def _view(self, name: str) -> Array:
        source = name if name in self.tensors else self.tied.get(name)
        if source is None:
            raise CheckpointError(
                f"'{self.folder}' has no tensor '{name}' among its {len(self.tensors)}; check the "
                f"architecture, or download the model again."
            )
        last = self._last
        if last is None or last[0] != source:
            last = self._last = (source, self._stored[source].floats())
        return last[1][...]


def pair_codes(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Put the 4-bit codes of columns i and i + 16 of each block of 32 into one byte, i low.

    Returns:
        [rows, blocks, 16]
    """
    blocks = codes.reshape(len(codes), -1, 2, BLOCK // 2)
    high = blocks[:, :, 1] << np.uint8(4)
    paired: npt.NDArray[np.uint8] = np.bitwise_or(blocks[:, :, 0], high, dtype=np.uint8)
    return paired
