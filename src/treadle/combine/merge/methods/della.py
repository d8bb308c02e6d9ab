"""DELLA: task vectors thinned at random by magnitude, with signs elected."""

from typing import ClassVar, Self

from pydantic import Field, model_validator

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, PerModel, Site, Unit
from treadle.combine.merge.dropping import check_ramps, drop_by_rank
from treadle.combine.merge.rescaling import l1_factors, ones
from treadle.combine.merge.task_vectors import add_to_base, elected_sum, scale
from treadle.combine.merge.weights import Fractions, each, spread
from treadle.core.method import Paper

__all__ = ["Della"]


class Della(MergeMethod):
    """Drop small elements of task vectors more often than large ones, then add up what agrees.

    A random mask as DARE's, but with probabilities by magnitude, keeps more of what matters. An
    element of rank r (0 is the smallest) in a row of n stays with the probability
    p = density - ε + 2ε r / (n - 1); the rest is as in TIES: θ = θ_0 + λ Σ_A w_n τ̂_n / Σ_A w_n. The
    paper divides each element by its p; here the tensor's L1 norm is restored, as in mergekit. Rows
    run along the last dimension (mergekit: the second; the same in matrices), the one element of a
    row has p = density (mergekit: 0 / 0), equal magnitudes rank by their place.

    Paper: Deep et al., 2024.
    """

    name: ClassVar[str] = "della"
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
    normalize: bool = True
    """Divide each element by the weights of the models that took part in it."""
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
        """Return the base plus the elected sum of the thinned task vectors."""
        weights = each(self.weight, len(chunk.models))
        deltas = chunk.deltas()
        drop_by_rank(chunk, site, *self._settings(site))
        scale(deltas, weights * known)
        merged = elected_sum(deltas, weights, normalize=self.normalize)
        return add_to_base(chunk, merged, self.lambda_)

    def _settings(self, site: Site) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return spread(self.density, len(site.keys)), spread(self.epsilon, len(site.keys))
