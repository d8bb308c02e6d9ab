"""Model breadcrumbs: task vectors without their largest and their smallest elements."""

from typing import ClassVar

from treadle.combine.merge.base import Site
from treadle.combine.merge.maths.thinned import Thinned, Thinning, within
from treadle.combine.merge.maths.trimming import middle
from treadle.combine.merge.maths.weights import Fractions, spread
from treadle.core.method import Paper

__all__ = ["Breadcrumbs", "BreadcrumbsTies"]

_PAPER = Paper(
    "Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks",
    2024,
    "https://arxiv.org/abs/2312.06795",
)


class Breadcrumbs(Thinned):
    """Sum task vectors without their smallest elements, which are noise, and their outliers.

    Of each task vector the share `gamma` of largest magnitudes goes, the share `density` after it
    stays, and the rest goes: θ = θ_0 + λ Σ w_n m_n ∘ τ_n. As in mergekit, fewer outliers go where
    gamma + density exceeds 1, none at density 1, and the sum is divided by Σ w_n where `normalize`
    is on. Of equal magnitudes the first in the tensor count as the larger ones.

    Paper: Davari and Belilovsky, 2024.
    """

    name: ClassVar[str] = "breadcrumbs"
    paper = _PAPER

    gamma: Fractions = (0.01,)
    """Share of each task vector's elements that is dropped for being the largest."""

    def measure(self, site: Site) -> Thinning:
        """Find each model's thresholds, and its loss of norm where that is made good."""
        return _between(self, site)


class BreadcrumbsTies(Thinned):
    """Drop outliers and noise from task vectors, then add up, for each element, what agrees.

    Of each task vector the share `gamma` of largest magnitudes goes, the share `density` after it
    stays, the rest goes. With γ = sgn Σ w_n τ̂_n of what stayed, θ = θ_0 + λ Σ_A w_n τ̂_n over
    A = {n : sgn τ̂_n = γ}, as in TIES, and divided by Σ_A w_n where `normalize` is on. A combination
    of mergekit's; its rules for gamma + density above 1 and for density 1 are kept.

    Paper: Davari and Belilovsky, 2024; signs: Yadav et al., 2023.
    """

    name: ClassVar[str] = "breadcrumbs_ties"
    elects_signs: ClassVar[bool] = True
    paper = _PAPER

    gamma: Fractions = (0.01,)
    """Share of each task vector's elements that is dropped for being the largest."""

    def measure(self, site: Site) -> Thinning:
        """Find each model's thresholds, and its loss of norm where that is made good."""
        return _between(self, site)


def _between(method: "Breadcrumbs | BreadcrumbsTies", site: Site) -> Thinning:
    num_models = len(site.keys)
    bands = middle(site, spread(method.density, num_models), spread(method.gamma, num_models))
    return within(site, bands, rescale=method.rescale)
