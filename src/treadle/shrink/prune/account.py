"""What a pruning run says of itself: its result's measurements and figures, and its manifest."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from treadle.core.checkpoint import CheckpointWriter, SideFile, side_file
from treadle.core.result import RESULT_FILE, Figure, Measurement, Series
from treadle.core.run import Recording

if TYPE_CHECKING:
    from treadle.model.facts import Linear

__all__ = ["measure_sparsity", "side_files"]


def _sparsities(
    writer: CheckpointWriter,
    layers: Sequence[Sequence["Linear"]],
    shapes: dict[str, tuple[int, ...]],
) -> tuple[list[float], float]:
    """Return the share of weights that are gone from what was written, by block and in all."""
    gone, sizes = [], []
    for matrices in layers:
        names = {matrix.tensor for matrix in matrices}
        before = sum(int(np.prod(shapes[name])) for name in names)
        kept = 0
        for name in names:
            kept += int(np.count_nonzero(writer.read(name)))
            writer.release(name)
        gone.append(before - kept)
        sizes.append(before)
    return [g / size for g, size in zip(gone, sizes, strict=True)], sum(gone) / sum(sizes)


def measure_sparsity(
    run: Recording,
    writer: CheckpointWriter,
    layers: Sequence[Sequence["Linear"]],
    shapes: dict[str, tuple[int, ...]],
) -> None:
    """Note the sparsity that was reached, in all and by block."""
    by_block, overall = _sparsities(writer, layers, shapes)
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


def side_files(is_nonuniform: bool) -> list[SideFile]:
    """Return what lies beside the weights; non-uniform shapes are a required part of its config."""
    found = [side_file("result", RESULT_FILE)]
    return [*found, side_file("nonuniform-shapes", "config.json")] if is_nonuniform else found
