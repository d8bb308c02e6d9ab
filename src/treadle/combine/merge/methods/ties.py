"""TIES: trim, elect signs, and merge."""

from typing import ClassVar

from pydantic import Field

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, PerModel, Site
from treadle.combine.merge.task_vectors import add_to_base, elected_sum, scale
from treadle.combine.merge.trimming import Trimming, largest, trimming
from treadle.combine.merge.weights import Fractions, each, spread
from treadle.core.method import Paper

__all__ = ["Ties"]


class Ties(MergeMethod):
    """Keep the largest part of each task vector, elect a sign for every element, average the rest.

    Small changes and changes of opposite sign are what makes task vectors disturb each other. With
    τ̂_n the `density` of largest magnitudes of τ_n, and γ = sgn Σ w_n τ̂_n (0 counts as plus),
    θ = θ_0 + λ Σ_A w_n τ̂_n / Σ_A w_n over A = {n : sgn τ̂_n = γ}, element by element. As in
    mergekit, the division is left out where `normalize` is off, and at least one element of a
    tensor is kept where the density is above 0. Of equal magnitudes the first in the tensor are
    kept; the threshold is exact, from two passes of counting.

    Paper: Yadav et al., 2023, section 4.
    """

    name: ClassVar[str] = "ties"
    base = "required"
    paper = Paper(
        "TIES-Merging: Resolving Interference When Merging Models",
        2023,
        "https://arxiv.org/abs/2306.01708",
    )

    weight: PerModel = (1.0,)
    """Weight of each model's task vector."""
    density: Fractions = (1.0,)
    """Share of each task vector's elements that is kept."""
    lambda_: float = Field(default=1.0, alias="lambda")
    """Factor of the merged task vector."""
    normalize: bool = True
    """Divide each element by the weights of the models that took part in it."""
    rescale: bool = False
    """Give each trimmed task vector the L1 norm that it had."""

    def measure(self, site: Site) -> Trimming:
        """Find each model's threshold, and its loss of norm where that is made good."""
        bands = largest(site, spread(self.density, len(site.keys)))
        return trimming(site, bands, rescale=self.rescale)

    def merge(self, chunk: Chunk, site: Site, known: Trimming) -> Floats:
        """Return the base plus the elected mean of the trimmed task vectors."""
        weights = each(self.weight, len(chunk.models))
        deltas = chunk.deltas()
        known.trim(deltas)
        scale(deltas, weights * known.factors)
        merged = elected_sum(deltas, weights, normalize=self.normalize)
        return add_to_base(chunk, merged, self.lambda_)
