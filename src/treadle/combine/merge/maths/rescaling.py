"""Rescaling: a thinned task vector regains the L1 norm that it had."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from treadle.combine.merge.base import Chunk, Floats, Site, Unit

__all__ = ["l1_factors", "ones"]

_TINY = 1e-7
"""mergekit's: a task vector of a smaller norm is left as it is."""


def ones(site: Site) -> Floats:
    """Return a factor of one for each model."""
    return np.ones(len(site.keys), np.float32)


def l1_factors(site: Site, unit: Unit, thin: Callable[[Chunk], None]) -> Floats:
    """Return, for each model, the L1 norm of its task vector before thinning over that after.

    One pass over the tensor; norms add up in float64.

    Args:
        site: The tensor.
        unit: What `thin` needs to see together.
        thin: Zeroes some elements of a chunk's task vectors, in place.
    """
    before = np.zeros(len(site.keys))
    after = np.zeros(len(site.keys))
    for chunk in site.chunks(unit):
        before += _sizes(chunk.deltas())
        thin(chunk)
        after += _sizes(chunk.models)
    is_tiny = (before < _TINY) | (after < _TINY)
    ratio = np.divide(before, after, out=np.ones_like(before), where=~is_tiny)
    return ratio.astype(np.float32)


def _sizes(deltas: Floats) -> npt.NDArray[np.float64]:
    return np.array([np.abs(row).sum(dtype=np.float64) for row in deltas])
