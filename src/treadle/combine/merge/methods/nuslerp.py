"""NuSLERP: spherical interpolation by weights, of models or of task vectors."""

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from treadle.combine.merge.base import Chunk, Floats, MergeMethod, PerModel, Site, Unit
from treadle.combine.merge.maths.gram import Doubles, cosines, gram, gram_of_columns, gram_of_rows
from treadle.combine.merge.maths.sphere import between
from treadle.combine.merge.maths.weights import each
from treadle.core.method import Standard

__all__ = ["NuSlerp"]

_STRAIGHT = 1e-12
_TINY = 1e-7
_NO_WEIGHT = 1e-6


class NuSlerp(MergeMethod):
    """Interpolate on the arc between two models, or, with a base, between two task vectors.

    The fraction is t = w_2 / (w_1 + w_2), one half where the weights sum to zero, and the result
    (sin((1-t)θ) a + sin(tθ) b) / sin θ; where sin² θ ≤ 1e-12, (1-t) a + t b. mergekit draws that
    line at 1e-16, below the resolution of its float32 cosines, so that opposite tensors divide by
    noise there. θ is the angle between whole tensors, between vectors along the last dimension, or,
    with `nuslerp_row_wise`, between those along the first: mergekit's names and orientation.
    Products accumulate in float64.

    mergekit (Arcee AI, 2024); the arc: Shoemake 1985.
    """

    name: ClassVar[str] = "nuslerp"
    base = "optional"
    num_models = (2, 2)
    unit: ClassVar[Unit] = "rows"
    paper = Standard("mergekit's NuSLERP (Arcee AI, 2024), after Shoemake 1985.")

    weight: PerModel = (1.0,)
    """Weight of each of the two models."""
    nuslerp_flatten: bool = True
    """Take each tensor as one vector."""
    nuslerp_row_wise: bool = False
    """Without `nuslerp_flatten`: take vectors along the first dimension, not along the last."""

    def measure(self, site: Site) -> Doubles | None:
        """Return the cosine of the tensors, or those of their columns; rows are left to `merge`."""
        if self.nuslerp_flatten:
            found: Doubles = cosines(gram(run for _, run in _vectors(site)), _TINY)[0, 1]
            return found
        if self.nuslerp_row_wise:
            num_columns = int(np.prod(site.shape[1:], dtype=np.int64))
            found = cosines(gram_of_columns(_vectors(site), num_columns), _TINY)[0, 1]
            return found
        return None

    def merge(self, chunk: Chunk, site: Site, known: Doubles | None) -> Floats:
        """Return the interpolated run."""
        vectors = chunk.models if chunk.base is None else chunk.deltas()
        first, second = self._coefficients(chunk, site, known)
        merged: Floats = vectors[0]
        merged *= first
        vectors[1] *= second
        merged += vectors[1]
        if chunk.base is not None:
            merged += chunk.base
        return merged

    def _coefficients(
        self, chunk: Chunk, site: Site, known: Doubles | None
    ) -> tuple[Floats, Floats]:
        """Return what to multiply both vectors by: scalars, or one for each element."""
        size = chunk.models.shape[1]
        if known is None:
            width = site.shape[-1] if site.shape else 1
            cosine = np.repeat(cosines(gram_of_rows(chunk.models, width), _TINY)[0, 1], width)
        elif known.ndim:
            cosine = known[np.arange(chunk.first, chunk.first + size) % known.size]
        else:
            cosine = known
        first, second = between(self._fraction(), cosine, 1.0 - cosine**2 <= _STRAIGHT)
        return first.astype(np.float32), second.astype(np.float32)

    def _fraction(self) -> float:
        first, second = (float(weight) for weight in each(self.weight, 2))
        total = first + second
        return 0.5 if abs(total) < _NO_WEIGHT else second / total


def _vectors(site: Site) -> Iterator[tuple[int, Floats]]:
    """Read the models, or their task vectors where there is a base, with each run's first place."""
    for chunk in site.chunks("elements"):
        yield chunk.first, chunk.models if chunk.base is None else chunk.deltas()
