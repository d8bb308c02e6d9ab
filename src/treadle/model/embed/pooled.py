"""Vectors of texts out of states of tokens, where no filling ever counts."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

__all__ = ["by_length", "unit"]

Floats = npt.NDArray[np.float32]
_BATCH_TOKENS = 4096


def by_length(
    rows: Sequence[Sequence[int]], dim: int, pooled: "Callable[[torch.Tensor], torch.Tensor]"
) -> Floats:
    """Return a vector of length 1 for each row of tokens [rows, dim]; zeros for an empty one.

    Rows of one length run together, so that nothing is filled up.

    Args:
        rows: Tokens.
        dim: Length of a vector.
        pooled: Makes vectors [batch, dim] of tokens [batch, seq].
    """
    import torch

    found = np.zeros((len(rows), dim), np.float32)
    places: dict[int, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        places[len(row)].append(place)
    places.pop(0, None)
    with torch.no_grad():
        for length, some in sorted(places.items()):
            at_once = max(1, _BATCH_TOKENS // length)
            for start in range(0, len(some), at_once):
                batch = some[start : start + at_once]
                found[batch] = pooled(torch.tensor([list(rows[place]) for place in batch])).numpy()
    return unit(found)


def unit(vectors: Floats) -> Floats:
    """Return vectors at length 1; zeros stay."""
    lengths = np.sqrt((vectors**2).sum(axis=1, keepdims=True))
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
