"""Trimming: only the elements of a task vector whose magnitude has a certain rank stay."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from treadle.combine.merge.base import Floats, Site
from treadle.combine.merge.maths.order_statistics import NOTHING, Cutoff, Largest, Magnitudes

__all__ = ["Band", "Limits", "Trim", "largest", "limits", "middle"]


class Band(NamedTuple):
    """Which elements stay, counted from the largest on."""

    skipped: int
    """These go, for being too large,"""
    kept: int
    """the next ones stay, and the rest goes."""


Limits = tuple[Cutoff, Cutoff] | None
"""The elements among the second's largest that are not among the first's stay; None: all do."""


def largest(site: Site, densities: Sequence[float]) -> list[Band | None]:
    """Keep the share `density` of largest elements, but at least one of them."""
    size = _num_elements(site)
    return [
        None if density >= 1.0 else Band(0, min(size, max(1, int(density * size))) * (density > 0))
        for density in densities
    ]


def middle(site: Site, densities: Sequence[float], gammas: Sequence[float]) -> list[Band | None]:
    """Skip the share `gamma` of largest elements, or less where that leaves too few to keep."""
    size = _num_elements(site)
    bands: list[Band | None] = []
    for density, gamma in zip(densities, gammas, strict=True):
        kept = int(density * size)
        skipped = min(int(gamma * size), size - kept)
        bands.append(None if density >= 1.0 else Band(skipped, kept))
    return bands


def _num_elements(site: Site) -> int:
    return int(np.prod(site.shape, dtype=np.int64))


def limits(site: Site, bands: Sequence[Band | None]) -> list[Limits]:
    """Find, in two passes over a tensor's task vectors, the magnitudes at which bands end.

    Args:
        site: The tensor.
        bands: One for each model; None keeps all of it.
    """
    wanted = {model: band for model, band in enumerate(bands) if band is not None and band.kept > 0}
    counts = {model: Magnitudes() for model in wanted}
    if wanted:
        for chunk in site.chunks("elements"):
            for model in wanted:
                counts[model].count(_delta(chunk.models[model], chunk.base))
        for model, band in wanted.items():
            counts[model].ask(band.skipped, band.skipped + band.kept)
        for chunk in site.chunks("elements"):
            for model in wanted:
                counts[model].refine(_delta(chunk.models[model], chunk.base))
    return [_limit(counts.get(model), band) for model, band in enumerate(bands)]


def _delta(model: Floats, base: Floats | None) -> Floats:
    assert base is not None
    return np.subtract(model, base, out=model)


def _limit(counts: Magnitudes | None, band: Band | None) -> Limits:
    if band is None:
        return None
    if counts is None:
        return NOTHING, NOTHING
    return counts.cutoff(band.skipped), counts.cutoff(band.skipped + band.kept)


class Trim:
    """Zeroes what lies outside the limits, run after run in order: good for one pass."""

    def __init__(self, limits: Sequence[Limits]) -> None:
        self._inner = [None if limit is None else Largest(limit[1]) for limit in limits]
        self._outer = [
            Largest(limit[0]) if limit is not None and limit[0] is not NOTHING else None
            for limit in limits
        ]

    def __call__(self, deltas: Floats) -> None:
        """Trim a run of task vectors [models, elements] in place."""
        for row, inner, outer in zip(deltas, self._inner, self._outer, strict=True):
            if inner is not None:
                sizes = np.abs(row)
                kept = inner.among(sizes)
                if outer is not None:
                    kept &= ~outer.among(sizes)
                row *= kept
