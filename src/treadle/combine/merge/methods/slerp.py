"""SLERP: spherical linear interpolation between two models."""

from typing import ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, Site
from treadle.combine.merge.maths.gram import cosines, gram
from treadle.combine.merge.maths.sphere import between
from treadle.combine.merge.maths.task_vectors import weighted_sum
from treadle.core.method import Standard

__all__ = ["Slerp"]

_STRAIGHT = 0.9995
_TINY = 1e-8


class Ends(NamedTuple):
    """How much of the base and of the model the result holds."""

    base: float
    model: float


class Slerp(MergeMethod):
    """Interpolate on the arc between two tensors, so that the mixture keeps their norm.

    With θ the angle between base a and model b as flat vectors, the result is
    (sin((1-t)θ) a + sin(tθ) b) / sin θ; where |cos θ| > 0.9995, (1-t) a + t b. As in mergekit, the
    sines weigh the tensors themselves and not their directions. Products accumulate in float64.

    Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985.
    """

    name: ClassVar[str] = "slerp"
    base = "first"
    num_models = (1, 1)
    measures_only: ClassVar[bool] = True
    paper = Standard("Shoemake 1985, Animating rotation with quaternion curves.")

    t: float = Field(ge=0.0, le=1.0)
    """Where on the arc: 0 is the base, 1 the other model."""

    def measure(self, site: Site) -> Ends:
        """Return the coefficients of both ends from the angle between them."""
        products = gram((_base(chunk), chunk.models[0]) for chunk in site.chunks("elements"))
        cosine = cosines(products, _TINY)[0, 1]
        first, second = between(self.t, cosine, np.abs(cosine) > _STRAIGHT)
        return Ends(float(first), float(second))

    def merge(self, chunk: Chunk, site: Site, known: Ends) -> Floats:
        """Return the weighted sum of both ends."""
        ends = np.array([known.model, known.base], np.float32)
        return weighted_sum((chunk.models[0], _base(chunk)), ends)


def _base(chunk: Chunk) -> Floats:
    assert chunk.base is not None
    return chunk.base
