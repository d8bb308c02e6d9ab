"""Model breadcrumbs whose signs are elected as in TIES."""

from typing import ClassVar

from pydantic import Field

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, PerModel, Site
from treadle.combine.merge.task_vectors import add_to_base, elected_sum, scale
from treadle.combine.merge.trimming import Trimming, middle, trimming
from treadle.combine.merge.weights import Fractions, each, spread
from treadle.core.method import Paper

__all__ = ["BreadcrumbsTies"]


class BreadcrumbsTies(MergeMethod):
    """Drop outliers and noise from task vectors, then add up, for each element, what agrees.

    Of each task vector the share `gamma` of largest magnitudes goes, the share `density` after it
    stays, the rest goes. With γ = sgn Σ w_n τ̂_n of what stayed, θ = θ_0 + λ Σ_A w_n τ̂_n over
    A = {n : sgn τ̂_n = γ}, as in TIES, and divided by Σ_A w_n where `normalize` is on. A combination
    of mergekit's; its rules for gamma + density above 1 and for density 1 are kept.

    Paper: Davari and Belilovsky, 2024; signs: Yadav et al., 2023.
    """

    name: ClassVar[str] = "breadcrumbs_ties"
    base = "required"
    paper = Paper(
        "Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks",
        2024,
        "https://arxiv.org/abs/2312.06795",
    )

    weight: PerModel = (1.0,)
    """Weight of each model's task vector."""
    density: Fractions = (1.0,)
    """Share of each task vector's elements that is kept."""
    gamma: Fractions = (0.01,)
    """Share of each task vector's elements that is dropped for being the largest."""
    lambda_: float = Field(default=1.0, alias="lambda")
    """Factor of the merged task vector."""
    normalize: bool = False
    """Divide each element by the weights of the models that took part in it."""
    rescale: bool = False
    """Give each trimmed task vector the L1 norm that it had."""

    def measure(self, site: Site) -> Trimming:
        """Find each model's thresholds, and its loss of norm where that is made good."""
        num_models = len(site.keys)
        bands = middle(site, spread(self.density, num_models), spread(self.gamma, num_models))
        return trimming(site, bands, rescale=self.rescale)

    def merge(self, chunk: Chunk, site: Site, known: Trimming) -> Floats:
        """Return the base plus the elected sum of the trimmed task vectors."""
        weights = each(self.weight, len(chunk.models))
        deltas = chunk.deltas()
        known.trim(deltas)
        scale(deltas, weights * known.factors)
        merged = elected_sum(deltas, weights, normalize=self.normalize)
        return add_to_base(chunk, merged, self.lambda_)
