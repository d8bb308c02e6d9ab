"""Whether models that are to be merged were tuned from one base, as far as a look can tell."""

from collections.abc import Sequence

import numpy as np

from treadle.combine.merge.inputs.models import Model
from treadle.combine.merge.inputs.sources import CHUNK_ELEMENTS, TensorSource
from treadle.combine.merge.inputs.towers import parse_name

__all__ = ["strangers"]

_NUM_TENSORS = 3
_STRANGE = 0.1
"""Cosine of weights below which models have no ancestor in common: of unrelated ones it is 0 to a
hundredth, of siblings that learned with large steps 0.67 to 0.92, of others above 0.95."""


def strangers(models: Sequence[Model]) -> list[str]:
    """Return a note that names models which no base is common to; nothing where all are kin.

    Of three matrices in the middle of the layers the first 65536 numbers are compared.
    """
    chosen = _middle(models) if len(models) > 1 else []
    if not chosen:
        return []
    vectors = np.concatenate([_first(sources) for sources in chosen], axis=1)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    cosines = vectors @ vectors.T
    one, other = map(int, np.unravel_index(int(cosines.argmin()), cosines.shape))
    if cosines[one, other] >= _STRANGE:
        return []
    return [
        f"'{models[one].ref}' and '{models[other].ref}' share no ancestor, as far as their weights "
        f"tell (cosine {cosines[one, other]:.3f}): their numbers do not mean the same, and what is "
        f"merged of them computes noise. treadle merge glue puts such models behind a router."
    ]


def _middle(models: Sequence[Model]) -> list[list[TensorSource]]:
    """Return matrices of layers that all models have in one shape, from the middle of them."""
    found = []
    for name in models[0].names:
        if parse_name(name).layer is None:
            continue
        sources = [model.source(name) for model in models]
        known = [source for source in sources if source is not None]
        shapes = {source.shape for source in known}
        if len(known) == len(models) and len(shapes) == 1 and len(known[0].shape) == 2:
            found.append(known)
    middle = len(found) // 2
    return found[max(0, middle - 1) : middle + _NUM_TENSORS - 1]


def _first(sources: Sequence[TensorSource]) -> "np.typing.NDArray[np.float64]":
    """Return the beginnings of one tensor [models, elements]."""
    count = min(CHUNK_ELEMENTS, int(np.prod(sources[0].shape)))
    found = np.empty((len(sources), count), np.float32)
    for source, row in zip(sources, found, strict=True):
        source.read(0, row)
    return found.astype(np.float64)
