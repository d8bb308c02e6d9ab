"""SCE: select what varies, calculate weights, erase minority signs."""

from typing import ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, Site
from treadle.combine.merge.maths.order_statistics import NOTHING, Cutoff, Largest, Magnitudes
from treadle.combine.merge.maths.task_vectors import add_to_base, elected_mean
from treadle.core.method import Paper

__all__ = ["Sce"]

_TINY = 1e-6


class _Known(NamedTuple):
    """Of one tensor."""

    selected: Largest | None
    """Of the variances; None selects all elements."""
    weights: Floats


class Sce(MergeMethod):
    """Merge only elements in which the models differ, weigh models by how much they moved.

    Select the share `select_topk` of elements whose task vectors have the largest variance over
    the models (of those with any); calculate w_n = mean τ̂_n² / Σ mean τ̂²; erase, for each element,
    the task vectors against the sign of their sum: θ = θ_0 + Σ_A w_n τ̂_n / max(Σ_A w_n, 1e-6). As
    in mergekit, weights are equal where the mean squares sum to less than 1e-6, and one model has
    no variance, so that only a `select_topk` of 1 keeps any of it. Squares accumulate in float64.

    Paper: Wan et al., 2024.
    """

    name: ClassVar[str] = "sce"
    base = "required"
    paper = Paper(
        "FuseChat: Knowledge Fusion of Chat Models",
        2024,
        "https://arxiv.org/abs/2408.07990",
    )

    select_topk: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of the elements with any variance that are merged."""

    def measure(self, site: Site) -> _Known:
        """Find the variance from which on elements are selected, and the models' weights."""
        cutoff = None if self.select_topk == 1.0 else self._cutoff(site)
        selected = _selection(cutoff)
        squares = np.zeros(len(site.keys))
        for chunk in site.chunks("elements"):
            for model, row in enumerate(_select(chunk.deltas(), selected)):
                squares[model] += np.square(row, out=row).sum(dtype=np.float64)
        squares /= max(1, int(np.prod(site.shape, dtype=np.int64)))
        total = squares.sum()
        weights = squares / total if total >= _TINY else np.full(len(squares), 1 / len(squares))
        return _Known(_selection(cutoff), weights.astype(np.float32))

    def _cutoff(self, site: Site) -> Cutoff:
        """Return where the largest variances end: one pass to count, one to refine."""
        variances, num_varying = Magnitudes(), 0
        for chunk in site.chunks("elements"):
            variance = _variance(chunk.deltas())
            variances.count(variance)
            num_varying += int(np.count_nonzero(variance))
        rank = int(num_varying * self.select_topk)
        if rank == 0:
            return NOTHING
        variances.ask(rank)
        for chunk in site.chunks("elements"):
            variances.refine(_variance(chunk.deltas()))
        return variances.cutoff(rank)

    def merge(self, chunk: Chunk, site: Site, known: _Known) -> Floats:
        """Return the base plus the elected, weighted mean of the selected elements."""
        deltas = _select(chunk.deltas(), known.selected)
        return add_to_base(chunk, elected_mean(deltas, known.weights, at_least=_TINY))


def _selection(cutoff: Cutoff | None) -> Largest | None:
    return None if cutoff is None else Largest(cutoff)


def _select(deltas: Floats, selected: Largest | None) -> Floats:
    if selected is not None:
        deltas *= selected.among(_variance(deltas))
    return deltas


def _variance(deltas: Floats) -> Floats:
    """Return the variance over the models [elements]."""
    mean: Floats = deltas.sum(axis=0)
    mean /= np.float32(len(deltas))
    found = np.zeros_like(mean)
    for row in deltas:
        found += np.square(row - mean)
    found /= np.float32(len(deltas))
    return found
