"""DARE: task vectors thinned at random."""

from typing import ClassVar

from treadle.combine.merge.base import Site
from treadle.combine.merge.maths.dropping import drop
from treadle.combine.merge.maths.thinned import Thinned, Thinning, at_random
from treadle.combine.merge.maths.weights import spread
from treadle.core.method import Paper

__all__ = ["DareLinear", "DareTies"]

_PAPER = Paper(
    "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch",
    2024,
    "https://arxiv.org/abs/2311.03099",
)


class DareLinear(Thinned):
    """Drop elements of each task vector at random, enlarge the others, and sum.

    Most changes of fine-tuning are redundant, so that few of them, drawn at random and enlarged, do
    the work of all. With m_n ~ Bernoulli(density), θ = θ_0 + λ Σ w_n s_n m_n ∘ τ_n, and divided by
    Σ w_n where `normalize` is on. The paper has s_n = 1 / density; here s_n restores the tensor's
    L1 norm, as in mergekit. Masks depend on the seed, the model and the tensor alone.

    Paper: Yu et al., 2024.
    """

    name: ClassVar[str] = "dare_linear"
    draws: ClassVar[bool] = True
    paper = _PAPER

    rescale: bool = True
    """Give each thinned task vector the L1 norm that it had."""

    def measure(self, site: Site) -> Thinning:
        """Draw the masks, and find each model's loss of norm where that is made good."""
        return _drawn(self, site)


class DareTies(Thinned):
    """Drop elements of each task vector at random, then add up, for each element, what agrees.

    Most changes of fine-tuning are redundant, so that few of them, drawn at random and enlarged, do
    the work of all, and fewer collide. With m_n ~ Bernoulli(density), τ̂_n = s_n m_n ∘ τ_n and
    γ = sgn Σ w_n τ̂_n, θ = θ_0 + λ Σ_A w_n τ̂_n over A = {n : sgn τ̂_n = γ}, divided by Σ_A w_n where
    `normalize` is on. The paper has s_n = 1 / density; here s_n restores the tensor's L1 norm, as
    in mergekit. Masks depend on the seed, the model and the tensor alone.

    Paper: Yu et al., 2024; signs: Yadav et al., 2023.
    """

    name: ClassVar[str] = "dare_ties"
    elects_signs: ClassVar[bool] = True
    draws: ClassVar[bool] = True
    paper = _PAPER

    rescale: bool = True
    """Give each thinned task vector the L1 norm that it had."""

    def measure(self, site: Site) -> Thinning:
        """Draw the masks, and find each model's loss of norm where that is made good."""
        return _drawn(self, site)


def _drawn(method: "DareLinear | DareTies", site: Site) -> Thinning:
    densities = spread(method.density, len(site.keys))
    is_rescaled = method.rescale and min(densities) < 1.0
    return at_random(
        site, "elements", lambda chunk: drop(chunk, site, densities), is_rescaled=is_rescaled
    )
