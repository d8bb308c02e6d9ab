"""Multi-SLERP: the mean direction of several models on a sphere."""

from typing import ClassVar

import numpy as np

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, PerModel, Site
from treadle.combine.merge.maths.gram import Doubles, gram, norms
from treadle.combine.merge.maths.task_vectors import weighted_sum
from treadle.combine.merge.maths.weights import each
from treadle.core.errors import SettingsError
from treadle.core.method import Standard

__all__ = ["MultiSlerp"]


class MultiSlerp(MergeMethod):
    """Average the directions of tensors, and give the average the mean of their norms.

    With units u_n = v_n / (‖v_n‖ + eps) of models, or of task vectors where there is a base:
    v = Σ w_n ‖v_n‖ · Σ w_n u_n / ‖Σ w_n u_n‖. mergekit then adds the weighted mean of the units'
    tangents at that point, which is zero by construction: we leave out its rounding noise. Two
    opposite tensors of equal weight are averaged. All follows from the Gram matrix, so the tensor
    is streamed; products accumulate in float64.

    Goddard, "Multi-SLERP", goddard.blog, 2025.
    """

    name: ClassVar[str] = "multislerp"
    base = "optional"
    paper = Standard("Goddard, https://goddard.blog/posts/multislerp-wow-what-a-cool-idea, 2025.")

    weight: PerModel = (1.0,)
    """Weight of each model."""
    normalize_weights: bool = True
    """Divide by the sum of the weights."""
    eps: float = 1e-8
    """Added to norms before they divide; a shorter mean direction is taken for none."""

    def measure(self, site: Site) -> Doubles | None:
        """Return each vector's coefficient; None leaves a single model as it is.

        Raises:
            SettingsError: Three or more directions cancel.
        """
        num_models = len(site.keys)
        if num_models == 1:
            return None
        products = gram(_vectors(chunk) for chunk in site.chunks("elements"))
        weights = each(self.weight, num_models, normalize=self.normalize_weights).astype(np.float64)
        sizes = norms(products)
        shares = weights / (sizes + self.eps)
        length = float(np.sqrt(np.maximum(shares @ products @ shares, 0.0)))
        if length >= self.eps:
            found: Doubles = shares * ((weights @ sizes) / length)
            return found
        if num_models == 2:
            return weights
        raise SettingsError(
            f"The directions of the {num_models} models cancel in tensor '{site.name}', so they "
            f"have no mean; change the weights, or use another method."
        )

    def merge(self, chunk: Chunk, site: Site, known: Doubles | None) -> Floats:
        """Return the combination of the vectors, on the base if there is one."""
        if known is None:
            only: Floats = chunk.models[0]
            return only
        merged = weighted_sum(_vectors(chunk), known.astype(np.float32))
        if chunk.base is not None:
            merged += chunk.base
        return merged


def _vectors(chunk: Chunk) -> Floats:
    return chunk.models if chunk.base is None else chunk.deltas()
