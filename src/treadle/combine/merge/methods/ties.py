"""TIES: trim, elect signs, and merge."""

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from treadle.combine.merge.base import Site, VisitAll
from treadle.combine.merge.maths.thinned import Thinned, Thinning, throughout, within
from treadle.combine.merge.maths.trimming import largest
from treadle.combine.merge.maths.weights import each, spread
from treadle.combine.merge.maths.whole_model import Survey, survey
from treadle.core.method import Paper

__all__ = ["Ties"]


class Ties(Thinned):
    """Keep the largest part of each task vector, elect a sign for every element, average the rest.

    Small changes and changes of opposite sign are what makes task vectors disturb each other. With
    τ̂_n the `density` of largest magnitudes of τ_n, and γ = sgn Σ w_n τ̂_n (0 counts as plus),
    θ = θ_0 + λ Σ_A w_n τ̂_n / Σ_A w_n over A = {n : sgn τ̂_n = γ}, element by element. As in
    mergekit, each tensor is trimmed on its own, the division is left out where `normalize` is off,
    and at least one element of a tensor is kept where the density is above 0. Of equal magnitudes
    the first in the tensor are kept; the threshold is exact, from two passes of counting. With
    `scope` model it is the authors' own: the density is a share of all elements of a model, a head
    tied to the embedding counting once, elements of the threshold's own magnitude all stay, and a
    sum of 0 takes the sign that most sums have; this reads the models three times more.

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
    scope: Literal["tensor", "model"] = "tensor"
    """What the density is a share of: each tensor, or all of a model together."""

    @model_validator(mode="after")
    def _norms_are_of_tensors(self) -> Self:
        if self.looks_ahead and self.rescale:
            raise ValueError(
                "rescale gives each tensor back the norm that scope = model takes from it; leave "
                "one of them out"
            )
        return self

    @property
    def looks_ahead(self) -> bool:
        """Whether thresholds are those of the whole model."""
        return self.scope == "model"

    def survey(self, visit_all: VisitAll, num_models: int) -> Survey:
        """Find the thresholds of whole models, and the sign that most elements elect."""
        return survey(visit_all, spread(self.density, num_models), each(self.weight, num_models))

    def measure(self, site: Site) -> Thinning:
        """Find each model's threshold, and its loss of norm where that is made good."""
        if self.looks_ahead:
            return throughout(site)
        bands = largest(site, spread(self.density, len(site.keys)))
        return within(site, bands, rescale=self.rescale)
