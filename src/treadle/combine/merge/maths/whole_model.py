"""Trimming over the whole model: which elements are large among those of all tensors together."""

import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from treadle.combine.merge.base import Floats, Site, VisitAll
from treadle.combine.merge.maths.order_statistics import NOTHING, Magnitudes
from treadle.combine.merge.maths.task_vectors import balance, scale
from treadle.combine.merge.maths.trimming import Limits, Trim

__all__ = ["Survey", "survey"]


class Survey(NamedTuple):
    """What a look at all tensors found."""

    limits: list[Limits]
    """For each model; all elements of the cutoff's own magnitude stay."""
    is_zero_plus: bool
    """Whether at least as many elements are positive as negative in the sum of what stays."""


def survey(visit_all: VisitAll, densities: Sequence[float], weights: Floats) -> Survey:
    """Find each model's threshold in two passes over the model, and count signs in a third.

    Only counts are kept, and only whole numbers are added up: the order of the tensors means
    nothing.
    """
    limits = _limits(visit_all, densities)
    lock, sums = threading.Lock(), [0]

    def vote(site: Site) -> None:
        trim, own = Trim(limits), 0
        for chunk in site.chunks("elements"):
            deltas = chunk.deltas()
            trim(deltas)
            scale(deltas, weights)
            own += balance(deltas)
        with lock:
            sums[0] += own

    visit_all(vote)
    return Survey(limits, sums[0] >= 0)


def _limits(visit_all: VisitAll, densities: Sequence[float]) -> list[Limits]:
    counts = {place: Magnitudes() for place, share in enumerate(densities) if 0.0 < share < 1.0}
    lock, sizes = threading.Lock(), [0]

    def count(site: Site) -> None:
        own = _counted(site, counts, is_second=False)
        with lock:
            sizes[0] += int(np.prod(site.shape, dtype=np.int64))
            for place, found in own.items():
                counts[place].add(found)

    def refine(site: Site) -> None:
        own = _counted(site, counts, is_second=True)
        with lock:
            for place, found in own.items():
                counts[place].add(found)

    if counts:
        visit_all(count)
        ranks = {place: max(1, int(densities[place] * sizes[0])) for place in counts}
        for place, rank in ranks.items():
            counts[place].ask(rank)
        visit_all(refine)
    limits: list[Limits] = [None if share else (NOTHING, NOTHING) for share in densities]
    for place, found in counts.items():
        cutoff = found.cutoff(ranks[place])
        limits[place] = NOTHING, cutoff._replace(num_kept=cutoff.num_equal)
    return limits


def _counted(site: Site, counts: dict[int, Magnitudes], is_second: bool) -> dict[int, Magnitudes]:
    own = {place: found.empty() for place, found in counts.items()}
    for chunk in site.chunks("elements"):
        deltas = chunk.deltas()
        for place, found in own.items():
            if is_second:
                found.refine(deltas[place])
            else:
                found.count(deltas[place])
    return own
