"""DELLA without elected signs: the sum of task vectors thinned by magnitude."""

from typing import ClassVar, Self

from pydantic import Field, model_validator

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, PerModel, Site, Unit
from treadle.combine.merge.dropping import check_ramps, drop_by_rank
from treadle.combine.merge.rescaling import l1_factors, ones
from treadle.combine.merge.task_vectors import add_to_base, weighted_sum
from treadle.combine.merge.weights import Fractions, each, spread
from treadle.core.method import Paper

__all__ = ["DellaLinear"]


class DellaLinear(MergeMethod):
    """Drop small elements of task vectors more often than large ones, and sum what is left.

    A random mask as DARE's, but with probabilities by magnitude, keeps more of what matters. An
    element of rank r (0 is the smallest) in a row of n stays with the probability
    p = density - ε + 2ε r / (n - 1), and θ = θ_0 + λ Σ w_n s_n m_n ∘ τ_n, divided by Σ w_n where
    `normalize` is on. The paper divides each element by its p; here s_n restores the tensor's L1
    norm, as in mergekit. Rows run along the last dimension (mergekit: the second; the same in
    matrices), the one element of a row has p = density (mergekit: 0 / 0), equal magnitudes rank by
    their place.

    Paper: Deep et al., 2024.
    """

    name: ClassVar[str] = "della_linear"
    base = "required"
    unit: ClassVar[Unit] = "rows"
    paper = Paper(
        "DELLA-Merging: Reducing Interference in Model Merging through Magnitude-Based Sampling",
        2024,
        "https://arxiv.org/abs/2406.11617",
    )

    weight: PerModel = (1.0,)
    """Weight of each model's task vector."""
    density: Fractions = (1.0,)
    """Mean probability with which an element of a task vector is kept."""
    epsilon: Fractions = (0.15,)
    """The probabilities reach from density - epsilon to density + epsilon."""
    lambda_: float = Field(default=1.0, alias="lambda")
    """Factor of the merged task vector."""
    normalize: bool = False
    """Divide by the sum of the weights."""
    rescale: bool = True
    """Give each thinned task vector the L1 norm that it had."""

    @model_validator(mode="after")
    def _probabilities_are_open(self) -> Self:
        check_ramps(self.density, self.epsilon)
        return self

    def measure(self, site: Site) -> Floats:
        """Return, for each model, the factor that restores its norm."""
        densities, epsilons = self._settings(site)
        if not self.rescale or min(densities) == 1.0:
            return ones(site)
        return l1_factors(
            site, "rows", lambda chunk: drop_by_rank(chunk, site, densities, epsilons)
        )

    def merge(self, chunk: Chunk, site: Site, known: Floats) -> Floats:
        """Return the base plus the weighted sum of the thinned task vectors."""
        weights = each(self.weight, len(chunk.models), normalize=self.normalize)
        deltas = chunk.deltas()
        drop_by_rank(chunk, site, *self._settings(site))
        merged = weighted_sum(deltas, weights * known)
        return add_to_base(chunk, merged, self.lambda_)

    def _settings(self, site: Site) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return spread(self.density, len(site.keys)), spread(self.epsilon, len(site.keys))
