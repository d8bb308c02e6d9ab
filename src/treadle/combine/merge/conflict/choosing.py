"""Which layers the experts keep for themselves, under a budget."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from treadle.combine.merge.conflict.measures import LayerConflict
from treadle.core.errors import SettingsError
from treadle.core.seed import numpy_stream
from treadle.core.sizes import spoken

__all__ = ["Among", "Order", "chosen_layers", "packed_bytes"]

Order = Literal["conflict", "lowest", "random"]
Among = Literal["all", "blocks"]


def packed_bytes(shape: Sequence[int], width: int, density: float) -> int:
    """Return the bytes that an expert's file has of a tensor (see `core.checkpoint.layered`).

    Args:
        shape: Of the tensor.
        width: Bytes of a number.
        density: Share of a matrix that the expert keeps.
    """
    size = math.prod(shape)
    if len(shape) < 2 or density >= 1:
        return size * width
    return math.ceil(size * density) * width + math.ceil(size / 8)


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
        taken = list(places[: round(share * len(scores))])
    return [measured[place].layer for place in sorted(taken)]
