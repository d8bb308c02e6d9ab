"""Zeros among the inputs: which tensors are sparse, and where their zeros meet."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from treadle.combine.merge.inputs.sources import Inputs, TensorSource
from treadle.combine.merge.site import Chunk, Floats

__all__ = ["SPARSE", "shared_zeros", "zero_shares"]

SPARSE = 0.05
"""From this share of zeros on a matrix was pruned: trained weights are hardly ever zero."""
_PLACES = 4
_SAMPLE = 1 << 12


def zero_shares(inputs: Inputs) -> tuple[float, ...]:
    """Return, for each model and the base, which share of a matrix is zero, about.

    It is counted in runs of 4096 elements at four places; vectors count as dense.
    """
    everyone = [*inputs.models, *([inputs.base] if inputs.base is not None else [])]
    if len(inputs.shape) < 2:
        return (0.0,) * len(everyone)
    return tuple(_share(source, inputs.num_elements) for source in everyone)


def _share(source: TensorSource, num_elements: int) -> float:
    size = min(_SAMPLE, num_elements // _PLACES)
    if size == 0:
        return 0.0
    num_zeros = 0
    target = np.empty(size, np.float32)
    for place in range(_PLACES):
        source.read((2 * place + 1) * num_elements // (2 * _PLACES) - size // 2, target)
        num_zeros += size - int(np.count_nonzero(target))
    return num_zeros / (_PLACES * size)


def shared_zeros(chunk: Chunk, shares: Sequence[float]) -> npt.NDArray[np.bool_]:
    """Return where all sparse inputs of a run are zero [elements]."""
    rows: list[Floats] = [*chunk.models, *([chunk.base] if chunk.base is not None else [])]
    found = np.ones(rows[0].size, np.bool_)
    for row, share in zip(rows, shares, strict=True):
        if share >= SPARSE:
            found &= row == 0
    return found
