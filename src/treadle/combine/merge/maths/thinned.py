"""Thinned task vectors become one: which elements stay is a paper's idea, the rest is shared."""

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

from pydantic import Field

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, PerModel, Site, Unit
from treadle.combine.merge.maths.rescaling import l1_factors, ones
from treadle.combine.merge.maths.task_vectors import (
    add_to_base,
    elected_sum,
    scale,
    weighted_sum,
)
from treadle.combine.merge.maths.trimming import Band, Trim, limits
from treadle.combine.merge.maths.weights import Fractions, each
from treadle.combine.merge.maths.whole_model import Survey

__all__ = ["Thinned", "Thinning", "at_random", "throughout", "within"]

Thin = Callable[[Chunk], None]
"""Zeroes elements of a chunk's task vectors [models, elements], in place; runs come in order."""


class Thinning(NamedTuple):
    """What is known of one tensor before its task vectors are thinned and merged."""

    thin: Thin
    factors: Floats
    """For each model: what to multiply its thinned task vector by."""
    is_zero_plus: bool = True
    """Whether a sum of 0 counts as plus where signs are elected."""


class Thinned(MergeMethod):
    """Thin each task vector, then add up all of it, or for each element what agrees in its sign.

    θ = θ_0 + λ Σ w_n s_n τ̂_n with thinned task vectors τ̂_n; where signs are elected, the sum runs
    over A = {n : sgn τ̂_n = sgn Σ w_n s_n τ̂_n}. s_n restores the L1 norm where `rescale` is on.
    """

    base = "required"
    elects_signs: ClassVar[bool] = False

    weight: PerModel = (1.0,)
    """Weight of each model's task vector."""
    density: Fractions = (1.0,)
    """Share of each task vector's elements that is kept."""
    lambda_: float = Field(default=1.0, alias="lambda")
    """Factor of the merged task vector."""
    normalize: bool = False
    """Divide by the sum of the weights; where signs are elected, of those that took part."""
    rescale: bool = False
    """Give each thinned task vector the L1 norm that it had."""

    @abstractmethod
    def measure(self, site: Site) -> Thinning:
        """Read the tensor as often as it takes to say how its task vectors are thinned."""

    def merge(self, chunk: Chunk, site: Site, known: Thinning) -> Floats:
        """Return the base plus the sum of the thinned task vectors."""
        is_mean = self.normalize and not self.elects_signs
        weights = each(self.weight, len(chunk.models), normalize=is_mean)
        deltas = chunk.deltas()
        known.thin(chunk)
        if not self.elects_signs:
            merged = weighted_sum(deltas, weights * known.factors)
        else:
            scale(deltas, weights * known.factors)
            merged = elected_sum(
                deltas, weights, normalize=self.normalize, is_zero_plus=known.is_zero_plus
            )
        return add_to_base(chunk, merged, self.lambda_)


def at_random(site: Site, unit: Unit, thin: Thin, *, is_rescaled: bool) -> Thinning:
    """Thin by draws that depend on an element's place alone, so that each pass draws the same."""
    return Thinning(thin, l1_factors(site, unit, thin) if is_rescaled else ones(site))


def within(site: Site, bands: list[Band | None], *, rescale: bool) -> Thinning:
    """Keep what lies in each model's band of magnitudes; finding it takes two passes."""
    found = limits(site, bands)
    factors = ones(site)
    if rescale and any(limit is not None for limit in found):
        factors = l1_factors(site, "elements", _trim(Trim(found)))
    return Thinning(_trim(Trim(found)), factors)


def throughout(site: Site) -> Thinning:
    """Keep what a look at the whole model found to be large."""
    survey = site.surveyed
    assert isinstance(survey, Survey), "a method with a survey must say that it looks ahead"
    return Thinning(_trim(Trim(survey.limits)), ones(site), survey.is_zero_plus)


def _trim(trim: Trim) -> Thin:
    return lambda chunk: trim(chunk.models)
