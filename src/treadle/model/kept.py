"""What a walk over a model's blocks keeps on disk: statistics by hash, and where it stands."""

import logging
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from treadle.core.cache import cache_folder
from treadle.core.checkpoint import content_hash
from treadle.core.disk import FULL, save_array
from treadle.core.errors import CapacityError, TreadleError
from treadle.core.result import digest
from treadle.core.shapes import Int, Tensor
from treadle.model.layers import LayeredModel
from treadle.model.statistics import (
    BlockStatistics,
    InputStatistics,
    collect_block,
    load_statistics,
    save_statistics,
)

if TYPE_CHECKING:
    import torch

__all__ = ["DenseStatistics", "KeptHidden"]

logger = logging.getLogger(__name__)


class DenseStatistics:
    """Statistics of the unpruned model, block by block.

    Collected once and kept in the cache folder by hash.
    """

    def __init__(
        self, model: LayeredModel, tokens: Int[Tensor, "batch seq"], needs_gram: bool
    ) -> None:
        self._model, self._tokens, self._needs_gram = model, tokens, needs_gram
        key = digest(
            [
                content_hash(model.reader),
                digest(model.reader.config),
                digest(tokens.tolist()),
                sorted(InputStatistics(1, needs_gram).state()),
            ]
        )
        self.folder = cache_folder() / "statistics" / key[:32]

    def _file(self, layer: int) -> Path:
        return self.folder / f"block.{layer}.safetensors"

    def collect(self) -> None:
        """Run the model unless its statistics are there already."""
        model = self._model
        if all(self._file(layer).is_file() for layer in range(model.num_layers)):
            logger.info("reusing the statistics in %s", self.folder)
            return
        hidden = model.embed(self._tokens)
        for layer, block in model.visit("calibrate (dense)"):
            found = collect_block(model, block, layer, hidden, self._needs_gram, and_run=True)
            save_statistics(found, self._file(layer))

    def block(self, layer: int) -> BlockStatistics:
        """Return the statistics of one block; `collect` must have run."""
        return load_statistics(self._file(layer))


class KeptHidden:
    """The input of the next block on disk beside the output, so that a killed run goes on there.

    A context manager: only an interrupted run leaves something, not one that ended or failed.
    """

    def __init__(self, out: Path, fingerprint: str) -> None:
        self._folder = out.absolute().with_name(f".{out.name}.hidden")
        self._key = fingerprint[:16]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None or issubclass(kind, TreadleError):
            shutil.rmtree(self._folder, ignore_errors=True)

    def _file(self, layer: int) -> Path:
        return self._folder / f"{self._key}.{layer}.npy"

    def save(self, streams: "list[torch.Tensor]", layer: int, drift: list[float]) -> None:
        """Keep the inputs [batch, seq, hidden] of block `layer`, durably and renamed into place.

        `drift` is what was measured of the blocks before.

        Raises:
            CapacityError: the disk is full.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        beside = self._file(layer).with_suffix(".partial")
        try:
            with beside.open("wb") as file:
                for hidden in streams:
                    save_array(file, hidden.numpy())
                save_array(file, np.asarray(drift, np.float64))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in FULL:
                raise
            num_bytes = sum(hidden.nbytes for hidden in streams)
            raise CapacityError(
                f"The disk filled up while the {num_bytes} bytes of the input of block {layer} "
                f"were kept in {self._folder}; free space, or choose a folder on another disk."
            ) from error
        os.replace(beside, self._file(layer))

    def restore(
        self, layer: int, num_streams: int
    ) -> "tuple[list[torch.Tensor], list[float]] | None":
        """Return the kept inputs of block `layer` and the drift, if they are there and whole."""
        import torch

        try:
            with self._file(layer).open("rb") as file:
                streams = [torch.from_numpy(np.load(file)) for _ in range(num_streams)]
                return streams, np.load(file).tolist()
        except (OSError, ValueError, EOFError):
            return None

    def drop(self, layer: int) -> None:
        """Remove the kept inputs of block `layer`."""
        self._file(layer).unlink(missing_ok=True)
