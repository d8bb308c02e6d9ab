"""DELLA: task vectors thinned at random by magnitude."""

from typing import ClassVar, Self

from pydantic import model_validator

from treadle.combine.merge.base import Site, Unit
from treadle.combine.merge.maths.dropping import check_ramps, drop_by_rank
from treadle.combine.merge.maths.thinned import Thinned, Thinning, at_random
from treadle.combine.merge.maths.weights import Fractions, spread
from treadle.core.method import Paper

__all__ = ["Della", "DellaLinear"]

_PAPER = Paper(
    "DELLA-Merging: Reducing Interference in Model Merging through Magnitude-Based Sampling",
    2024,
    "https://arxiv.org/abs/2406.11617",
)


class Della(Thinned):
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
    unit: ClassVar[Unit] = "rows"
    elects_signs: ClassVar[bool] = True
    draws: ClassVar[bool] = True
    paper = _PAPER

    density: Fractions = (1.0,)
    """Mean probability with which an element of a task vector is kept."""
    epsilon: Fractions = (0.15,)
    """The probabilities reach from density - epsilon to density + epsilon."""
    normalize: bool = True
    """Divide each element by the weights of the models that took part in it."""
    rescale: bool = True
    """Give each thinned task vector the L1 norm that it had."""

    @model_validator(mode="after")
    def _probabilities_are_open(self) -> Self:
        check_ramps(self.density, self.epsilon)
        return self

    def measure(self, site: Site) -> Thinning:
        """Draw the masks, and find each model's loss of norm where that is made good."""
        return _ranked(self, site)


class DellaLinear(Thinned):
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
    unit: ClassVar[Unit] = "rows"
    draws: ClassVar[bool] = True
    paper = _PAPER

    density: Fractions = (1.0,)
    """Mean probability with which an element of a task vector is kept."""
    epsilon: Fractions = (0.15,)
    """The probabilities reach from density - epsilon to density + epsilon."""
    rescale: bool = True
    """Give each thinned task vector the L1 norm that it had."""

    @model_validator(mode="after")
    def _probabilities_are_open(self) -> Self:
        check_ramps(self.density, self.epsilon)
        return self

    def measure(self, site: Site) -> Thinning:
        """Draw the masks, and find each model's loss of norm where that is made good."""
        return _ranked(self, site)


def _ranked(method: "Della | DellaLinear", site: Site) -> Thinning:
    num_models = len(site.keys)
    densities, epsilons = spread(method.density, num_models), spread(method.epsilon, num_models)
    is_rescaled = method.rescale and min(densities) < 1.0
    return at_random(
        site,
        "rows",
        lambda chunk: drop_by_rank(chunk, site, densities, epsilons),
        is_rescaled=is_rescaled,
    )
