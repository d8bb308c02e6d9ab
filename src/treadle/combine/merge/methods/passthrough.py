"""Passthrough: one model's tensor as it is, or scaled."""

from typing import Any, ClassVar

import numpy as np

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, PerModel, Site
from treadle.combine.merge.maths.weights import each
from treadle.core.method import Standard

__all__ = ["Passthrough"]


class Passthrough(MergeMethod):
    """Take one model's tensor, so that slices of different models can be stacked.

    θ = s θ_1. With a scale of 1 the tensor keeps its bits; a scale of 0 on the output projections
    of a repeated block makes the repeat an identity.

    mergekit's "frankenmerges" (2023).
    """

    name: ClassVar[str] = "passthrough"
    num_models = (1, 1)
    paper = Standard("mergekit's passthrough, 2023: layers of several models stacked.")

    scale: PerModel = (1.0,)
    """Factor of the tensor."""

    def merge(self, chunk: Chunk, site: Site, known: Any) -> Floats:
        """Return the scaled run."""
        merged: Floats = chunk.models[0]
        factor = each(self.scale, 1)[0]
        if factor != np.float32(1.0):
            merged *= factor
        return merged
