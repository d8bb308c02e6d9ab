"""Model Stock: how far to go from the base to the mean of the models, from their angles."""

from typing import ClassVar

import numpy as np

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, Site, Unit
from treadle.combine.merge.maths.gram import Doubles, gram_of_deltas, gram_of_rows, norms
from treadle.combine.merge.maths.task_vectors import add_to_base, weighted_change, weighted_sum
from treadle.core.method import Paper

__all__ = ["ModelStock"]

_TINY = 1e-6


class ModelStock(MergeMethod):
    """Interpolate between the base and the mean of the models, by the angle between task vectors.

    Fine-tuned models lie on a shell around their centre; the wider their angles, the nearer the
    base the centre lies. With c the mean cosine over all pairs of N task vectors,
    t = N c / (1 + (N-1) c) and θ = t · mean θ_n + (1-t) θ_0; the paper takes one angle for all
    pairs. As in mergekit, products of norms below 1e-6 count as 1e-6, and where the denominator
    vanishes t = 0. Products accumulate in float64.

    Paper: Jang et al., 2024.
    """

    name: ClassVar[str] = "model_stock"
    base = "required"
    num_models = (2, None)
    unit: ClassVar[Unit] = "rows"
    measures_only: ClassVar[bool] = True
    paper = Paper(
        "Model Stock: All we need is just a few fine-tuned models",
        2024,
        "https://arxiv.org/abs/2403.19522",
    )

    filter_wise: bool = False
    """One t for each vector along the last dimension, not one for the tensor."""

    def measure(self, site: Site) -> Doubles | None:
        """Return the tensor's t; those of rows are left to `merge`."""
        if self.filter_wise:
            return None
        return _fraction(gram_of_deltas(site.chunks(self.unit)))

    def merge(self, chunk: Chunk, site: Site, known: Doubles | None) -> Floats:
        """Return the base plus t times the mean task vector."""
        count = len(chunk.models)
        ones = np.ones(count, np.float32)
        if known is not None:
            return weighted_change(chunk, ones, float(known) / count)
        deltas = chunk.deltas()
        width = site.shape[-1] if site.shape else 1
        known = np.repeat(_fraction(gram_of_rows(deltas, width)), width)
        merged = weighted_sum(deltas, ones)
        merged *= (known / count).astype(np.float32)
        return add_to_base(chunk, merged)


def _fraction(products: Doubles) -> Doubles:
    """Return t from a Gram matrix [models, models, ...]."""
    sizes = norms(products)
    floor = np.maximum(sizes[:, None] * sizes[None, :], _TINY)
    every = np.clip(products / floor, -1.0, 1.0)
    count = len(products)
    cosine = every[np.triu_indices(count, 1)].mean(axis=0)
    denominator = 1.0 + (count - 1) * cosine
    is_singular = np.abs(denominator) < _TINY
    found: Doubles = np.where(
        is_singular, 0.0, count * cosine / np.where(is_singular, 1.0, denominator)
    )
    return found
