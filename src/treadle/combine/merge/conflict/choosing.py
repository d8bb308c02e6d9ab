"""Which layers the experts keep for themselves, under a budget."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from treadle.combine.merge.conflict.measures import LayerConflict
from treadle.core.errors import SettingsError
from treadle.core.seed import numpy_stream
from treadle.core.sizes import spoken

__all__ = ["Among", "Order", "chosen_layers", "num_kept", "packed_bytes"]

Order = Literal["conflict", "lowest", "random"]
Among = Literal["all", "blocks", "mlps"]
_SAID_BYTES = 200
"""Of a file's header, at most, for each array."""


def num_kept(shape: Sequence[int], density: float, by_row: bool) -> int:
    """Return how many numbers of a matrix an expert keeps: of all of it, or of each row."""
    size = math.prod(shape)
    if by_row:
        return size // shape[-1] * math.ceil(density * shape[-1])
    return math.ceil(density * size)


def packed_bytes(shape: Sequence[int], width: int, density: float, by_row: bool) -> int:
    """Return the most bytes that an expert's file has of a tensor (`core.checkpoint.layered`).

    Args:
        shape: Of the tensor.
        width: Bytes of a number.
        density: Share of a matrix that the expert keeps.
        by_row: Whether it keeps that share of each row.
    """
    size = math.prod(shape)
    if len(shape) < 2 or density >= 1:
        return size * width + _SAID_BYTES
    return num_kept(shape, density, by_row) * width + math.ceil(size / 8) + 2 * _SAID_BYTES


def chosen_layers(
    measured: Sequence[LayerConflict],
    sizes: Mapping[str, int],
    order: Order,
    fraction: float | None,
    budget_bytes: int | None,
    seed: int,
) -> list[str]:
    """Return the layers that experts keep, in the order of the model.

    Args:
        measured: Every layer.
        sizes: Layer -> bytes that all experts need for it.
        order: Those of highest conflict first, or of lowest, or drawn by the seed (controls).
        fraction: Share of the layers; None with `budget_bytes` None: those above the mean conflict.
        budget_bytes: As many, in that order, as fit in.
        seed: Of the draw.

    Raises:
        SettingsError: No layer fits.
    """
    scores = np.array([one.conflict for one in measured])
    places = {
        "conflict": np.argsort(-scores, kind="stable"),
        "lowest": np.argsort(scores, kind="stable"),
        "random": numpy_stream(seed, "layers").permutation(len(scores)),
    }[order]
    if budget_bytes is not None:
        taken, left = [], budget_bytes
        for place in places:
            size = sizes[measured[place].layer]
            if size <= left:
                taken.append(place)
                left -= size
        if not taken:
            least = min(sizes.values())
            raise SettingsError(
                f"route_bytes = {spoken(budget_bytes)} holds no layer of all experts, of which the "
                f"smallest takes {spoken(least)}; give that much, or lower density."
            )
    else:
        share = float((scores > scores.mean()).mean()) if fraction is None else fraction
        # A share above 0 means a layer at least; none are above the mean where all are equal.
        taken = list(places[: max(round(share * len(scores)), share > 0)])
    return [measured[place].layer for place in sorted(taken)]
