"""Rotary tables of the native step: cosines and sines of a step's rows."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from treadle.core.errors import UnsupportedModelError
from treadle.model.rope import first_place
from treadle.runtime.executor import Floats, Ints

__all__ = ["Rope", "ropes_of", "turn"]

_KINDS = (None, "full_attention", "sliding_attention")


class Rope(NamedTuple):
    """How positions turn in layers of one kind, in each of a model's regimes (`model.rope`)."""

    frequencies: Floats
    """[regimes, dim / 2]"""
    scaling: Floats
    """[regimes] of cosines and sines."""


def ropes_of(rotary: Any, dim: int, bounds: Sequence[int]) -> tuple[Rope, Rope]:
    """Return the ropes of layers with full attention and of sliding ones.

    Args:
        rotary: The rotary embedding of a llama-like model of transformers, in memory.
        dim: Of a head.
        bounds: Where its factors change.

    Raises:
        UnsupportedModelError: It turns a part of each head only.
    """
    found = []
    for kind in _KINDS:
        prefix = "" if kind is None else f"{kind}_"
        if hasattr(rotary, f"{prefix}inv_freq"):
            found.append(_rope(rotary, kind, prefix, bounds))
    width = found[0].frequencies.shape[1]
    if 2 * width != dim:
        raise UnsupportedModelError(
            f"The rotary embedding turns {2 * width} of a head's {dim} numbers, and the native "
            f"step all of them."
        )
    return found[0], found[-1]


def _rope(rotary: Any, kind: str | None, prefix: str, bounds: Sequence[int]) -> Rope:
    import torch

    frequencies, scaling = [], []
    for regime in range(len(bounds) + 1):
        if bounds:  # the embedding takes on the factors of the texts that it is called for
            options = {} if kind is None else {"layer_type": kind}
            places = torch.tensor([[first_place(bounds, regime)]])
            rotary(torch.zeros(1), position_ids=places, **options)
        frequencies.append(getattr(rotary, f"{prefix}inv_freq").float().numpy().copy())
        scaling.append(float(getattr(rotary, f"{prefix}attention_scaling")))
    return Rope(np.stack(frequencies), np.asarray(scaling, np.float32))


def turn(rope: Rope, positions: Ints, regimes: Ints) -> tuple[Floats, Floats]:
    """Return cosine and sine [rows, dim / 2] of the rows' angles."""
    angles = positions.astype(np.float32)[:, None] * rope.frequencies[regimes]
    scaling = rope.scaling[regimes][:, None]
    return np.cos(angles) * scaling, np.sin(angles) * scaling
