"""What a pruning run says of itself: its result's measurements and figures, and its manifest."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from treadle.core.checkpoint import CheckpointReader, CheckpointWriter, SideFile, side_file
from treadle.core.result import RESULT_FILE, Figure, Measurement, Series
from treadle.core.run import Recording
from treadle.core.sizes import share_of
from treadle.shrink.prune.patterns import Pattern

if TYPE_CHECKING:
    from treadle.model.facts import Linear

__all__ = ["deed", "measure_sparsity", "side_files"]


class _Counts(NamedTuple):
    """What became of the weights of a block's matrices."""

    before: int
    """Weights."""
    were_zero: int
    kept: int
    """Weights that are not zero now."""
    came_back: int
    """Weights that were zero and have a value now."""

    @property
    def sparsity(self) -> float:
        """The share that is gone."""
        return (self.before - self.kept) / self.before


def _counted(
    reader: CheckpointReader, writer: CheckpointWriter, matrices: Sequence["Linear"]
) -> _Counts:
    before = were_zero = kept = came_back = 0
    for name in dict.fromkeys(matrix.tensor for matrix in matrices):
        old, new = reader.array(name), writer.read(name)
        is_zero = old == 0
        before += old.size
        were_zero += int(np.count_nonzero(is_zero))
        kept += int(np.count_nonzero(new))
        if old.shape == new.shape:
            came_back += int(np.count_nonzero(new[is_zero]))
        reader.release(name)
        writer.release(name)
    return _Counts(before, were_zero, kept, came_back)


def measure_sparsity(
    run: Recording,
    reader: CheckpointReader,
    writer: CheckpointWriter,
    layers: Sequence[Sequence["Linear"]],
) -> None:
    """Note the sparsity that was reached, in all and by block, and what of an earlier one is lost.

    Args:
        run: The account.
        reader: The model.
        writer: The pruned model.
        layers: The matrices of its blocks.
    """
    counts = [_counted(reader, writer, matrices) for matrices in layers]
    total = _Counts(*(sum(column) for column in zip(*counts, strict=True)))
    by_block, overall = [one.sparsity for one in counts], total.sparsity
    if total.came_back:
        run.notes.append(
            f"{total.came_back} of the {total.were_zero} weights that were zero before "
            f"({total.were_zero / total.before:.4g} of all) have values now; --keep-zeros leaves "
            f"them zero."
        )
    run.figures.append(
        Figure(
            kind="line",
            title="Sparsity by block",
            x_label="block",
            y_label="sparsity",
            series=[Series(name=run.method, x=list(range(len(layers))), y=by_block)],
        )
    )
    unit = "fraction of the weights in the blocks' matrices"
    run.measurements.append(Measurement(name="sparsity", value=overall, unit=unit))


def deed(pattern: Pattern, sparsity: float) -> str:
    """Return what is done to a model, in plain words."""
    what = {"neurons": "the neurons", "heads": "the attention heads"}.get(pattern.kind)
    said = f"{share_of(sparsity, what or 'the weights')} removed"
    return f"{said}, {pattern.m - pattern.n} of every {pattern.m}" if pattern.m else said


def side_files(is_nonuniform: bool) -> list[SideFile]:
    """Return what lies beside the weights; non-uniform shapes are a required part of its config."""
    found = [side_file("result", RESULT_FILE)]
    return [*found, side_file("nonuniform-shapes", "config.json")] if is_nonuniform else found
