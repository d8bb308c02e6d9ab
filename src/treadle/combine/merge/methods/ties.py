"""TIES: trim, elect signs, and merge."""

from typing import ClassVar

from treadle.combine.merge.base import Site
from treadle.combine.merge.maths.thinned import Thinned, Thinning, within
from treadle.combine.merge.maths.trimming import largest
from treadle.combine.merge.maths.weights import spread
from treadle.core.method import Paper

__all__ = ["Ties"]


class Ties(Thinned):
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
    elects_signs: ClassVar[bool] = True
    paper = Paper(
        "TIES-Merging: Resolving Interference When Merging Models",
        2023,
        "https://arxiv.org/abs/2306.01708",
    )

    normalize: bool = True
    """Divide each element by the weights of the models that took part in it."""

    def measure(self, site: Site) -> Thinning:
        """Find each model's threshold, and its loss of norm where that is made good."""
        bands = largest(site, spread(self.density, len(site.keys)))
        return within(site, bands, rescale=self.rescale)
