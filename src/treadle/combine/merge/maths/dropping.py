"""Dropping elements of task vectors at random, every element with a probability of its own."""

import numpy as np
import numpy.typing as npt

from treadle.combine.merge.base import Chunk, Floats, Site
from treadle.combine.merge.maths.weights import spread
from treadle.native import elements

__all__ = ["check_ramps", "drop", "drop_by_rank"]


def drop(chunk: Chunk, site: Site, densities: tuple[float, ...]) -> None:
    """Zero each element of `chunk.models` but with the probability `density`, in place."""
    draws = np.empty_like(chunk.models[0])
    for row, key, density in zip(chunk.models, site.keys, densities, strict=True):
        if density < 1.0:
            elements.uniform(key, chunk.first, draws)
            row *= draws < density


def check_ramps(densities: tuple[float, ...], epsilons: tuple[float, ...]) -> None:
    """Refuse probabilities of 0 and 1 and beyond, except at the densities 0 and 1 themselves.

    Raises:
        ValueError: Some density - ε or density + ε is not between 0 and 1.
    """
    count = max(len(densities), len(epsilons))
    if {len(densities), len(epsilons)} - {1, count}:
        return  # A wrong number of values: refused with the number of models.
    for density, epsilon in zip(spread(densities, count), spread(epsilons, count), strict=True):
        if 0.0 < density < 1.0 and not epsilon < min(density, 1.0 - density):
            raise ValueError(
                f"density {density} ± epsilon {epsilon} reaches 0 or 1; lower epsilon below "
                f"{min(density, 1.0 - density):g}"
            )


def drop_by_rank(
    chunk: Chunk, site: Site, densities: tuple[float, ...], epsilons: tuple[float, ...]
) -> None:
    """Zero elements of `chunk.models`, small ones more often than large ones, in place.

    An element stays with a probability between density - ε and density + ε, linear in the rank of
    its magnitude within its row; equal magnitudes rank by their place. The one element of a row
    stays with the probability `density`.
    """
    width = site.shape[-1] if site.shape else 1
    draws = np.empty_like(chunk.models[0])
    for row, key, density, epsilon in zip(
        chunk.models, site.keys, densities, epsilons, strict=True
    ):
        if density <= 0.0:
            row[:] = 0.0
        elif density < 1.0:
            elements.uniform(key, chunk.first, draws)
            row *= _kept(row.reshape(-1, width), draws.reshape(-1, width), density, epsilon)


def _kept(rows: Floats, draws: Floats, density: float, epsilon: float) -> npt.NDArray[np.bool_]:
    width = rows.shape[1]
    ramp = np.linspace(density - epsilon, density + epsilon, width, dtype=np.float32)
    if width == 1:
        ramp[:] = density
    order = _by_magnitude(rows)
    kept = np.empty(rows.shape, np.bool_)
    np.put_along_axis(kept, order, np.take_along_axis(draws, order, axis=1) < ramp, axis=1)
    return kept.reshape(-1)


def _by_magnitude(rows: Floats) -> npt.NDArray[np.int64]:
    """Sort each row's places by their magnitude, stably.

    Sorting whole integers of magnitude and place is many times faster than a stable argsort.
    """
    keys = (rows.view(np.uint32) & np.uint32(0x7FFFFFFF)).astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= np.arange(rows.shape[1], dtype=np.uint64)
    keys.sort(axis=1)
    keys &= np.uint64(0xFFFFFFFF)
    return keys.view(np.int64)
