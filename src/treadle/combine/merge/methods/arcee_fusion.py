"""Arcee Fusion: take from the other model only its important changes."""

from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, Site, Unit
from treadle.combine.merge.maths.order_statistics import Magnitudes
from treadle.combine.merge.maths.task_vectors import add_to_base
from treadle.core.method import Standard

__all__ = ["ArceeFusion"]

_EPSILON = 1e-8
"""mergekit's, added to probabilities."""
_SPREAD = 1.5
"""Tukey's rule for outliers, above the median here."""


class _Known(NamedTuple):
    """Of one tensor."""

    divergences: Floats
    """[rows]"""
    threshold: np.float32


class ArceeFusion(MergeMethod):
    """Take those elements of the other model that changed much, in rows that changed much.

    The importance of an element is |θ_1 - θ_0| · KL(softmax θ_1 ‖ softmax θ_0), with softmax and KL
    over its vector along the last dimension; elements above median + 1.5 (Q3 - Q1) of the tensor's
    importances are the other model's, the others the base's. The quartiles are exact, from two
    passes of counting; mergekit estimates them from a random million of elements in larger tensors.
    Divergences are computed in float64; below zero, which only rounding yields, counts as zero.

    mergekit's Arcee Fusion (Arcee AI, 2025).
    """

    name: ClassVar[str] = "arcee_fusion"
    base = "first"
    num_models = (1, 1)
    unit: ClassVar[Unit] = "rows"
    paper = Standard("mergekit's Arcee Fusion (Arcee AI, 2025), https://arcee.ai.")

    def measure(self, site: Site) -> _Known:
        """Find the threshold of importance, in two passes."""
        importances, every = Magnitudes(), []
        for chunk in site.chunks("rows"):
            divergences = _divergences(chunk, site)
            importances.count(_importance(chunk, divergences))
            every.append(divergences)
        if not every:
            return _Known(np.zeros(0, np.float32), np.float32(0.0))
        size = int(np.prod(site.shape, dtype=np.int64))
        ranks = [size - int(share * (size - 1)) for share in (0.25, 0.5, 0.75)]
        importances.ask(*ranks)
        known = _Known(np.concatenate(every), np.float32(0.0))
        for chunk in site.chunks("rows"):
            importances.refine(_importance(chunk, _of_chunk(known, chunk, site)))
        first, median, third = (importances.cutoff(rank).magnitude for rank in ranks)
        return known._replace(threshold=median + np.float32(_SPREAD) * (third - first))

    def merge(self, chunk: Chunk, site: Site, known: _Known) -> Floats:
        """Return the base plus the important differences."""
        importance = _importance(chunk, _of_chunk(known, chunk, site))
        delta: Floats = chunk.models[0]
        delta *= importance >= known.threshold
        return add_to_base(chunk, delta)


def _width(site: Site) -> int:
    return site.shape[-1] if site.shape else 1


def _of_chunk(known: _Known, chunk: Chunk, site: Site) -> Floats:
    row = chunk.first // _width(site)
    return known.divergences[row : row + chunk.models.shape[1] // _width(site)]


def _importance(chunk: Chunk, divergences: Floats) -> Floats:
    """Return |Δ| times the row's divergence; `models` become the differences Δ."""
    found: Floats = np.abs(chunk.deltas()[0])
    by_row = found.reshape(len(divergences), -1)
    by_row *= divergences[:, None]
    return found


def _divergences(chunk: Chunk, site: Site) -> Floats:
    """Return KL(softmax θ_1 ‖ softmax θ_0) of each row.

    In float64: the terms nearly cancel between models that were tuned from one base.
    """
    assert chunk.base is not None
    model = _softmax(chunk.models[0].reshape(-1, _width(site)))
    base = _softmax(chunk.base.reshape(-1, _width(site)))
    terms = np.log(np.divide(model, base, out=base), out=base)
    terms *= model
    found: Floats = np.maximum(terms.sum(axis=1), 0.0).astype(np.float32)
    return found


def _softmax(rows: Floats) -> npt.NDArray[np.float64]:
    found = rows.astype(np.float64)
    found -= found.max(axis=1, keepdims=True)
    np.exp(found, out=found)
    found /= found.sum(axis=1, keepdims=True)
    found += _EPSILON
    return found
