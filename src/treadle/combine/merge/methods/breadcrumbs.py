"""Model breadcrumbs: task vectors without their largest and their smallest elements."""

from typing import ClassVar

from pydantic import Field

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, PerModel, Site
from treadle.combine.merge.task_vectors import add_to_base, weighted_sum
from treadle.combine.merge.trimming import Trimming, middle, trimming
from treadle.combine.merge.weights import Fractions, each, spread
from treadle.core.method import Paper

__all__ = ["Breadcrumbs"]


class Breadcrumbs(MergeMethod):
    """Sum task vectors without their smallest elements, which are noise, and their outliers.

    Of each task vector the share `gamma` of largest magnitudes goes, the share `density` after it
    stays, and the rest goes: θ = θ_0 + λ Σ w_n m_n ∘ τ_n. As in mergekit, fewer outliers go where
    gamma + density exceeds 1, none at density 1, and the sum is divided by Σ w_n where `normalize`
    is on. Of equal magnitudes the first in the tensor count as the larger ones.

    Paper: Davari and Belilovsky, 2024.
    """

    name: ClassVar[str] = "breadcrumbs"
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
    """Divide by the sum of the weights."""
    rescale: bool = False
    """Give each trimmed task vector the L1 norm that it had."""

    def measure(self, site: Site) -> Trimming:
        """Find each model's thresholds, and its loss of norm where that is made good."""
        num_models = len(site.keys)
        bands = middle(site, spread(self.density, num_models), spread(self.gamma, num_models))
        return trimming(site, bands, rescale=self.rescale)

    def merge(self, chunk: Chunk, site: Site, known: Trimming) -> Floats:
        """Return the base plus the weighted sum of the trimmed task vectors."""
        weights = each(self.weight, len(chunk.models), normalize=self.normalize)
        deltas = chunk.deltas()
        known.trim(deltas)
        merged = weighted_sum(deltas, weights * known.factors)
        return add_to_base(chunk, merged, self.lambda_)
