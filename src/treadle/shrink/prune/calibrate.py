"""Run a model's blocks over calibration tokens, while they are pruned or before."""

import errno
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import numpy as np

from treadle.core import hardware
from treadle.core.cache import cache_folder
from treadle.core.checkpoint import CheckpointReader, content_hash
from treadle.core.errors import CapacityError, TreadleError
from treadle.core.progress import steps
from treadle.core.result import digest
from treadle.core.shapes import Float, Int, Tensor
from treadle.model.in_step import run_in_step
from treadle.model.layers import Block, LayeredModel
from treadle.model.statistics import (
    BlockStatistics,
    InputStatistics,
    collect_block,
    group_by_input,
    load_statistics,
    save_statistics,
)

if TYPE_CHECKING:
    import torch

    from treadle.model.facts import Linear

__all__ = [
    "MODES",
    "DenseStatistics",
    "KeptHidden",
    "Mode",
    "read_block",
    "require_memory",
    "run_block",
]

logger = logging.getLogger(__name__)
Mode = Literal["one-pass", "two-pass", "dense"]
MODES = {
    "one-pass": "each matrix is pruned before its output is used, so that every block runs once",
    "two-pass": "each block runs once to collect and once more, pruned, for the next one's inputs",
    "dense": "statistics of the unpruned model, saved and reused by later runs on the same tokens",
}
PruneGroup = Callable[[Block, list["Linear"], BlockStatistics], None]


def run_block(
    model: LayeredModel,
    block: Block,
    layer: int,
    hidden: Float[Tensor, "batch seq hidden"],
    needs_gram: bool,
    prune: PruneGroup,
    mode: Mode,
) -> Float[Tensor, "batch seq hidden"]:
    """Prune `block` on its real inputs `hidden` and return its pruned outputs."""
    if mode == "one-pass":
        return _one_pass(model, block, layer, hidden, needs_gram, prune)
    statistics = collect_block(model, block, layer, hidden, needs_gram, and_run=False)
    for matrices in group_by_input(block.matrices).values():
        prune(block, matrices, statistics)
    return model.run(block, layer, hidden)


def _one_pass(
    model: LayeredModel,
    block: Block,
    layer: int,
    hidden: "torch.Tensor",
    needs_gram: bool,
    prune: PruneGroup,
) -> "torch.Tensor":
    """Prune the readers of each input when all calibration tokens have arrived at it."""
    groups = group_by_input(block.matrices)
    statistics = {
        name: InputStatistics(block.view(matrices[0]).shape[1], needs_gram)
        for name, matrices in groups.items()
    }
    run_in_step(
        model,
        block,
        layer,
        hidden,
        collect=lambda name, values: statistics[name].add(values),
        complete=lambda name: prune(block, groups[name], statistics),
    )
    return hidden


def require_memory(
    num_tokens: int, matrices: list["Linear"], shapes: dict[str, tuple[int, ...]]
) -> None:
    """Check that what all calibration tokens hold while they wait at an input fits into memory.

    That is the residual stream, the block's input and the widest input of a matrix, in float32.

    Raises:
        CapacityError: They do not.
    """
    widest = max(max(shapes[matrix.tensor]) for matrix in matrices)
    narrowest = min(min(shapes[matrix.tensor]) for matrix in matrices)
    needed_bytes = 4 * num_tokens * (widest + 2 * narrowest)
    available = hardware.available_memory_bytes()
    if needed_bytes > available:
        raise CapacityError(
            f"One-pass calibration holds about {needed_bytes / 1e9:.1f} GB of activations for "
            f"{num_tokens} tokens, but {available / 1e9:.1f} GB are available; "
            f"use --calibrate two-pass, or fewer windows."
        )


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
                "gram" if needs_gram else "squares",
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
        with steps("calibrate (dense)", model.num_layers) as bar:
            for layer in range(model.num_layers):
                with model.block(layer) as block:
                    found = collect_block(
                        model, block, layer, hidden, self._needs_gram, and_run=True
                    )
                save_statistics(found, self._file(layer))
                bar.advance()

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

    def save(self, hidden: Float[Tensor, "batch seq hidden"], layer: int) -> None:
        """Keep the input of block `layer`, durably, beside and renamed into place.

        Raises:
            CapacityError: the disk is full.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        beside = self._file(layer).with_suffix(".partial")
        try:
            with beside.open("wb") as file:
                np.save(file, hidden.numpy())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise CapacityError(
                f"The disk filled up while the {hidden.nbytes} bytes of the input of block {layer} "
                f"were kept in {self._folder}; free space, or choose a folder on another disk."
            ) from error
        os.replace(beside, self._file(layer))

    def restore(self, layer: int) -> "torch.Tensor | None":
        """Return the kept input of block `layer`, if it is there and whole."""
        import torch

        try:
            return torch.from_numpy(np.load(self._file(layer)))
        except (OSError, ValueError, EOFError):
            return None

    def drop(self, layer: int) -> None:
        """Remove the kept input of block `layer`."""
        self._file(layer).unlink(missing_ok=True)


def read_block(reader: CheckpointReader, matrices: list["Linear"]) -> "dict[str, torch.Tensor]":
    """Return the matrices [out, in] of one block straight from disk, in float32, by name."""
    import torch

    found: dict[str, torch.Tensor] = {}
    for matrix in matrices:
        stored = reader.tensor(matrix.tensor)
        stored = stored.T if matrix.transposed else stored
        found[matrix.name] = stored[matrix.rows].to(torch.float32, copy=True)
    return found
