"""NearSwap: take the other model's values where they are near the base's."""

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, Site
from treadle.combine.merge.maths.task_vectors import add_to_base
from treadle.core.method import Standard

__all__ = ["NearSwap"]

_FLOOR = 1e-6


class NearSwap(MergeMethod):
    """Move each element of the base towards the other model's, by at most t.

    θ = (1-w) θ_0 + w θ_1 with w = min(1, t / |θ_0 - θ_1|): differences up to t are taken whole,
    larger ones by t in their direction. As in mergekit, differences below 1e-6 count as 1e-6 in w.

    Alchemonaut, QuartetAnemoi-70B-t0.0001, 2024.
    """

    name: ClassVar[str] = "nearswap"
    base = "first"
    num_models = (1, 1)
    paper = Standard("https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001, 2024.")

    t: float = Field(ge=0.0)
    """The most by which an element moves."""

    def merge(self, chunk: Chunk, site: Site, known: Any) -> Floats:
        """Return the base plus the limited differences."""
        delta: Floats = chunk.deltas()[0]
        weight = np.abs(delta)
        np.maximum(weight, np.float32(_FLOOR), out=weight)
        np.divide(np.float32(self.t), weight, out=weight)
        np.minimum(weight, np.float32(1.0), out=weight)
        delta *= weight
        return add_to_base(chunk, delta)
