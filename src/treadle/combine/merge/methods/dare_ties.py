"""DARE, task vectors thinned at random, with signs elected as in TIES."""

from typing import ClassVar

from pydantic import Field

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, PerModel, Site
from treadle.combine.merge.dropping import drop
from treadle.combine.merge.rescaling import l1_factors, ones
from treadle.combine.merge.task_vectors import add_to_base, elected_sum, scale
from treadle.combine.merge.weights import Fractions, each, spread
from treadle.core.method import Paper

__all__ = ["DareTies"]


class DareTies(MergeMethod):
    """Drop elements of each task vector at random, then add up, for each element, what agrees.

    Most changes of fine-tuning are redundant, so that few of them, drawn at random and enlarged, do
    the work of all, and fewer collide. With m_n ~ Bernoulli(density), τ̂_n = s_n m_n ∘ τ_n and
    γ = sgn Σ w_n τ̂_n, θ = θ_0 + λ Σ_A w_n τ̂_n over A = {n : sgn τ̂_n = γ}, divided by Σ_A w_n where
    `normalize` is on. The paper has s_n = 1 / density; here s_n restores the tensor's L1 norm, as
    in mergekit. Masks depend on the seed, the model and the tensor alone.

    Paper: Yu et al., 2024; signs: Yadav et al., 2023.
    """

    name: ClassVar[str] = "dare_ties"
    base = "required"
    paper = Paper(
        "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free "
        "Lunch",
        2024,
        "https://arxiv.org/abs/2311.03099",
    )

    weight: PerModel = (1.0,)
    """Weight of each model's task vector."""
    density: Fractions = (1.0,)
    """Probability with which an element of a task vector is kept."""
    lambda_: float = Field(default=1.0, alias="lambda")
    """Factor of the merged task vector."""
    normalize: bool = False
    """Divide each element by the weights of the models that took part in it."""
    rescale: bool = True
    """Give each thinned task vector the L1 norm that it had."""

    def measure(self, site: Site) -> Floats:
        """Return, for each model, the factor that restores its norm."""
        densities = spread(self.density, len(site.keys))
        if not self.rescale or min(densities) == 1.0:
            return ones(site)
        return l1_factors(site, "elements", lambda chunk: drop(chunk, site, densities))

    def merge(self, chunk: Chunk, site: Site, known: Floats) -> Floats:
        """Return the base plus the elected sum of the thinned task vectors."""
        weights = each(self.weight, len(chunk.models))
        deltas = chunk.deltas()
        drop(chunk, site, spread(self.density, len(deltas)))
        scale(deltas, weights * known)
        merged = elected_sum(deltas, weights, normalize=self.normalize)
        return add_to_base(chunk, merged, self.lambda_)
