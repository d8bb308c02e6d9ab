"""Karcher mean: the point of a sphere with the least squared distances to all models."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, Site
from treadle.combine.merge.maths.gram import Doubles, cosines, gram, norms
from treadle.combine.merge.maths.task_vectors import weighted_sum
from treadle.core.method import Paper

__all__ = ["Karcher"]


class Karcher(MergeMethod):
    """Average directions along the sphere itself, not through it, and norms on their own.

    Steps μ ← exp_μ(Σ log_μ(u_n) / N) from the normalised mean of the units u_n = v_n / ‖v_n‖, until
    a step is shorter than `tol`; the result is μ times the mean norm. Tensors of a norm up to `tol`
    have no direction and count only for the norm. μ stays a combination of the units, so we iterate
    on its N coefficients with their Gram matrix (float64), after one pass over the tensor; mergekit
    iterates on tensors.

    Paper: Wang et al., 2026; the mean: Karcher 1977.
    """

    name: ClassVar[str] = "karcher"
    paper = Paper(
        "Functionality-Oriented LLM Merging on the Fisher-Rao Manifold",
        2026,
        "https://arxiv.org/abs/2603.04972",
    )

    max_iter: int = Field(default=10, ge=0)
    """The most steps that are taken."""
    tol: float = Field(default=1e-5, gt=0.0)
    """A shorter step ends the iteration; a shorter tensor has no direction."""

    def measure(self, site: Site) -> Doubles | None:
        """Return each model's coefficient; None leaves a single model as it is."""
        if len(site.keys) == 1:
            return None
        products = gram(chunk.models for chunk in site.chunks("elements"))
        sizes = norms(products)
        valid = np.flatnonzero(sizes > self.tol)
        found = np.zeros(len(sizes))
        if valid.size:
            mean = self._mean(cosines(products, 0.0)[np.ix_(valid, valid)])
            found[valid] = mean / sizes[valid] * sizes.mean()
        return found

    def _mean(self, products: Doubles) -> Doubles:
        """Return the mean's coefficients from the products of units."""
        mean = np.full(len(products), 1.0 / len(products))
        if _length(mean, products) < self.tol:
            mean = np.eye(len(products))[0]
        mean /= _length(mean, products)
        for _ in range(self.max_iter):
            tangent = self._tangent(mean, products)
            length = _length(tangent, products)
            if length < self.tol:
                break
            mean = np.cos(length) * mean + np.sin(length) * (tangent / length)
            mean /= max(_length(mean, products), self.tol)
        return mean

    def _tangent(self, mean: Doubles, products: Doubles) -> Doubles:
        """Return the mean of the directions from `mean` to the units, as long as the arcs are."""
        dots = np.clip(products @ mean, -1.0, 1.0)
        angles = np.arccos(dots)
        is_far = angles >= self.tol
        stretch = np.where(is_far, angles / np.where(is_far, np.sin(angles), 1.0), 0.0)
        found: Doubles = (stretch - (stretch @ dots) * mean) / len(products)
        return found

    def merge(self, chunk: Chunk, site: Site, known: Doubles | None) -> Floats:
        """Return the combination of the models."""
        if known is None:
            only: Floats = chunk.models[0]
            return only
        return weighted_sum(chunk.models, known.astype(np.float32))


def _length(coefficients: Doubles, products: Doubles) -> float:
    return float(np.sqrt(np.maximum(coefficients @ products @ coefficients, 0.0)))
