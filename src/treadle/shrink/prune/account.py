"""What a pruning run says of itself: its result's measurements and figures, and its manifest."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from treadle.core.checkpoint import CheckpointWriter, Manifest, Parent, Provenance, SideFile
from treadle.core.result import Figure, Measurement, Result, Series

if TYPE_CHECKING:
    from treadle.model.facts import Linear

__all__ = ["figures_and_measurements", "manifest_of"]


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


def figures_and_measurements(
    writer: CheckpointWriter,
    layers: Sequence[Sequence["Linear"]],
    shapes: dict[str, tuple[int, ...]],
    metric: str,
) -> dict[str, Any]:  # Any: fields of Result
    """Return the sparsity reached, in all and by block."""
    by_block, overall = _sparsities(writer, layers, shapes)
    figure = Figure(
        kind="line",
        title="Sparsity by block",
        x_label="block",
        y_label="sparsity",
        series=[Series(name=metric, x=list(range(len(layers))), y=by_block)],
    )
    unit = "fraction of the weights in the blocks' matrices"
    measurement = Measurement(name="sparsity", value=overall, unit=unit)
    return {"measurements": [measurement], "figures": [figure]}


def manifest_of(result: Result, parent: str, is_nonuniform: bool) -> Manifest:
    """Return the manifest of the output; non-uniform shapes are a required part of its config."""
    parents = (Parent(name=parent, content_hash=result.inputs[0].content_hash),)
    side_files = [_side_file("result.json", "result", False)]
    if is_nonuniform:
        side_files.append(_side_file("config.json", "nonuniform-shapes", True))
    provenance = Provenance(
        verb="prune",
        method=result.method,
        settings=result.settings,
        seed=result.seed,
        parents=parents,
    )
    return Manifest(side_files=tuple(side_files), provenance=provenance)


def _side_file(path: str, kind: str, required: bool) -> SideFile:
    return SideFile(path=path, kind=kind, version=1, base_hash="", required=required)
