"""Change a model block by block: run it, learn of its inputs, change its matrices, write, resume.

A verb hands in a `Rewriter`: which names it writes, and what it does to matrices that read one
input. The walk loads one block at a time, runs it on the calibration tokens with what was changed
before, and writes what comes out; a killed run goes on at the block where it stopped.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from treadle.core import hardware
from treadle.core.checkpoint import CheckpointReader, CheckpointWriter, require_finite
from treadle.core.codec import Array
from treadle.core.errors import CapacityError
from treadle.core.progress import steps
from treadle.core.shapes import Float, Int, Tensor
from treadle.model import facts
from treadle.model.belonging import require_finite_where_read, shapes_of
from treadle.model.facts import base_config
from treadle.model.in_step import Stream, run_in_step
from treadle.model.kept import KeptHidden
from treadle.model.layers import Block, LayeredModel
from treadle.model.statistics import (
    BlockStatistics,
    InputStatistics,
    collect_block,
    group_by_input,
)

if TYPE_CHECKING:
    import torch

    from treadle.model.facts import Linear

__all__ = [
    "Calibration",
    "Change",
    "Rewriter",
    "Rewritten",
    "View",
    "layers_of",
    "parts_of",
    "read_matrices",
    "require_memory",
    "rewrite",
    "stored",
]

View = Callable[["Linear"], "torch.Tensor"]
"""From a matrix to its values [out, in] in float32; writing to them changes the model."""
Known = Callable[[int], BlockStatistics]
"""From the number of a block to what is known of its inputs without running it."""


class Calibration(NamedTuple):
    """The tokens on which blocks run while they are changed."""

    tokens: Int[Tensor, "batch seq"]
    needs_gram: bool
    has_two_passes: bool = False
    """Whether a block runs once to learn of its inputs and once more, changed, for the next one's;
    otherwise each matrix is changed before its output is used, so that the block runs once."""
    is_paired: bool = False
    """Whether the inputs that the unchanged model has are carried along, so that statistics know
    both (in one pass only; a second copy of the block and of the hidden states are in memory)."""


class Change(ABC):
    """What a verb does to matrices that are in memory together."""

    @abstractmethod
    def change(self, matrices: Sequence["Linear"], known: BlockStatistics) -> None:
        """Change the matrices that read one input, in place."""

    @abstractmethod
    def written(
        self, matrices: Sequence["Linear"]
    ) -> "Iterator[tuple[str, Array]] | Iterator[tuple[str, torch.Tensor]]":
        """Yield the tensors that take the matrices' place, under their names in the output."""


class Rewriter(ABC):
    """A verb that changes blocks: it says what is replaced, and opens a change for each part."""

    title: str
    """What the progress bar says."""
    has_whole_blocks = False
    """Whether all matrices of a block must be in memory together, even where nothing runs."""

    @abstractmethod
    def replaced(self, matrices: Sequence["Linear"]) -> list[str]:
        """Return the names on disk that the output does not take over as they are."""

    @abstractmethod
    def names(self, matrices: Sequence["Linear"]) -> list[str]:
        """Return the names in the output that `Change.written` yields for `matrices`."""

    @abstractmethod
    def open(self, layer: int, view: View) -> Change:
        """Return what changes matrices of block `layer`, which `view` shows."""


class Rewritten(NamedTuple):
    """How a walk went."""

    first_layer: int
    """Blocks that an interrupted run had written already."""
    drift: list[float]
    """Block by block ‖H - H°‖ / ‖H°‖ of the hidden states behind it, changed against clean, where
    both were carried."""
    unseen: list[str]
    """"block 3: expert_mlp_in.7": inputs that no token reached, in blocks changed just now."""
    num_inputs: int
    """Inputs of those blocks that statistics are kept of."""


def layers_of(reader: CheckpointReader) -> list[list["Linear"]]:
    """Return the matrices of every block.

    Raises:
        UnsupportedModelError: The architecture has no facts.
    """
    config, shapes = base_config(reader.config), shapes_of(reader)
    count = facts.num_layers(config)
    return [facts.linears(config, layer, shapes) for layer in range(count)]


def rewrite(
    reader: CheckpointReader,
    writer: CheckpointWriter,
    rewriter: Rewriter,
    *,
    fingerprint: str,
    model: LayeredModel | None = None,
    calibration: Calibration | None = None,
    known: Known | None = None,
) -> Rewritten:
    """Write every tensor of the model in `reader`, its blocks' matrices changed.

    Args:
        reader: The model.
        writer: Where the output is planned whole; blocks it has already are left alone.
        rewriter: What is done.
        fingerprint: Of the run; what an interrupted one kept is found by it.
        model: The model, where blocks run.
        calibration: What they run on; without it matrices are read straight from disk.
        known: Gives what is known of a block's inputs where it does not run.

    Raises:
        CheckpointError: A tensor holds NaN or infinity.
        CapacityError: The disk is full.
    """
    layers = layers_of(reader)
    _copy_rest(reader, writer, {name for one in layers for name in rewriter.replaced(one)})
    with KeptHidden(writer.out, fingerprint) as kept:
        first, streams, drift = _start(writer, rewriter, layers, model, calibration, kept)
        seen: dict[str, int] = {}
        with steps(rewriter.title, len(layers)) as bar:
            bar.advance(first)
            for layer in range(first, len(layers)):
                if streams and model is not None and calibration is not None:
                    found = _run_block(reader, writer, rewriter, model, calibration, layer, streams)
                    drift += _drift(streams)
                    kept.save(streams, layer + 1, drift)
                else:
                    found = _read_block(reader, writer, rewriter, layers[layer], known)
                seen |= {f"block {layer}: {name}": one.num_tokens for name, one in found.items()}
                writer.mark_done(rewriter.names(layers[layer]))
                kept.drop(layer)
                bar.advance()
    unseen = [name for name, num_tokens in seen.items() if not num_tokens]
    return Rewritten(first, drift, unseen, len(seen))


def _copy_rest(reader: CheckpointReader, writer: CheckpointWriter, replaced: set[str]) -> None:
    done = writer.done
    rest = [name for name in reader.tensors if name not in replaced and name not in reader.tied]
    todo = [name for name in rest if name not in done]
    for name in todo:
        require_finite_where_read(name, reader)
        writer.write(name, reader.array(name))
    writer.mark_done(todo)


def _start(
    writer: CheckpointWriter,
    rewriter: Rewriter,
    layers: list[list["Linear"]],
    model: LayeredModel | None,
    calibration: Calibration | None,
    kept: KeptHidden,
) -> "tuple[int, list[torch.Tensor], list[float]]":
    """Return the first block to change, its inputs and the drift before it.

    It is block 0, or the one where a killed run stopped.
    """
    done, first = writer.done, 0
    while first < len(layers) and done.issuperset(rewriter.names(layers[first])):
        first += 1
    if model is None or calibration is None:
        return first, [], []
    entered = model.embed(calibration.tokens)
    model.drop_ends()
    streams = [entered, entered.clone()] if calibration.is_paired else [entered]
    restored = kept.restore(first, len(streams)) if first else None
    return (0, streams, []) if restored is None else (first, *restored)


def _run_block(
    reader: CheckpointReader,
    writer: CheckpointWriter,
    rewriter: Rewriter,
    model: LayeredModel,
    calibration: Calibration,
    layer: int,
    streams: "list[torch.Tensor]",
) -> BlockStatistics:
    """Change a block on its real inputs, write it, and turn the inputs into its outputs.

    Returns:
        What was known of its inputs.
    """
    with model.block(layer) as block:
        change = rewriter.open(layer, block.view)
        if calibration.has_two_passes:
            known = collect_block(
                model, block, layer, streams[0], calibration.needs_gram, and_run=False
            )
            for matrices in group_by_input(block.matrices).values():
                change.change(matrices, known)
            model.run(block, layer, streams[0])
        else:
            known = _one_pass(model, block, layer, streams, calibration.needs_gram, change)
        for name, values in change.written(block.matrices):
            writer.write(name, values)
        for name in rewriter.replaced(block.matrices):
            reader.release(name)
    return known


def _one_pass(
    model: LayeredModel,
    block: Block,
    layer: int,
    streams: "list[torch.Tensor]",
    needs_gram: bool,
    change: Change,
) -> BlockStatistics:
    """Change the readers of each input when all calibration tokens have arrived at it."""
    groups = group_by_input(block.matrices)
    is_paired = len(streams) > 1
    statistics = {
        name: InputStatistics(block.view(matrices[0]).shape[1], needs_gram, is_paired)
        for name, matrices in groups.items()
    }
    clean = Block(copy.deepcopy(block.module), block.matrices) if is_paired else None
    run_in_step(
        model,
        block,
        layer,
        streams[0],
        collect=lambda name, values, pair: statistics[name].add(values, pair),
        complete=lambda name: change.change(groups[name], statistics),
        clean=None if clean is None else Stream(clean, streams[1]),
    )
    return statistics


def _drift(streams: "list[torch.Tensor]") -> list[float]:
    if len(streams) < 2:
        return []
    changed, clean = streams
    return [float((changed - clean).double().norm() / clean.double().norm())]


def _read_block(
    reader: CheckpointReader,
    writer: CheckpointWriter,
    rewriter: Rewriter,
    matrices: list["Linear"],
    known: Known | None,
) -> BlockStatistics:
    """Change a block straight from disk and write it, one tensor at a time where it can be."""
    layer = matrices[0].layer
    found = known(layer) if known is not None else {}
    for part, view in parts_of(reader, matrices, rewriter.has_whole_blocks, rewriter.replaced):
        change = rewriter.open(layer, view)
        for group in group_by_input(part).values():
            change.change(group, found)
        for name, values in change.written(part):
            writer.write(name, values)
        for name in rewriter.replaced(part):
            reader.release(name)
    return found


def parts_of(
    reader: CheckpointReader,
    matrices: Sequence["Linear"],
    is_whole: bool = False,
    names: "Callable[[Sequence[Linear]], list[str]] | None" = None,
) -> Iterator[tuple[list["Linear"], View]]:
    """Yield what of a block must be in memory together, read from disk, with a view of it.

    That is the whole block where `is_whole`, and otherwise the matrices of one tensor. What is read
    must be finite; `names` says what else belongs to a part, such as biases.
    """
    parts: dict[str, list[Linear]] = {}
    for matrix in matrices:
        parts.setdefault("all" if is_whole else matrix.tensor, []).append(matrix)
    for part in parts.values():
        for name in [one.tensor for one in part] if names is None else names(part):
            require_finite(name, reader.array(name), reader.tensors[name].file)
        yield part, _view_of(read_matrices(reader, part))


def _view_of(weights: "dict[str, torch.Tensor]") -> View:
    return lambda matrix: weights[matrix.name]


def read_matrices(
    reader: CheckpointReader, matrices: Sequence["Linear"]
) -> "dict[str, torch.Tensor]":
    """Return matrices [out, in] straight from disk, in float32, by name."""
    import torch

    found: dict[str, torch.Tensor] = {}
    for matrix in matrices:
        values = matrix.of(reader.tensor(matrix.tensor))
        found[matrix.name] = values.to(torch.float32, copy=True)
    return found


def stored(
    reader: CheckpointReader, name: str, matrices: Sequence["Linear"], view: View
) -> Float[Tensor, "..."]:
    """Return the tensor `name` as it is on disk, with the values of `matrices` that it holds."""
    value = reader.tensor(name).clone()
    for matrix in matrices:
        if matrix.tensor == name:
            matrix.of(value).copy_(view(matrix).to(value.dtype))
    return value


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
