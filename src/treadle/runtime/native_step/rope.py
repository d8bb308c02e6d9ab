"""Rotary tables of the native step: cosines and sines of a step's rows."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np

from treadle.model.rope import RotaryFactors
from treadle.runtime.executor import Floats, Ints

__all__ = ["DynamicRope", "FixedRope", "Rope", "ropes_of", "turn"]

_KINDS = (None, "full_attention", "sliding_attention")
_MOST_LENGTHS = 4096
"""Regimes of a dynamic model whose frequencies are kept: 1 MB for heads of 128 numbers."""
_One = tuple[Floats, float]


class Rope(Protocol):
    """How positions turn in layers of one kind, in each of a model's regimes (`model.rope`)."""

    @property
    def width(self) -> int:
        """The number of frequencies of a head."""
        ...

    def of(self, regimes: Ints) -> tuple[Floats, Floats]:
        """Return the frequencies [rows, width] of rows, and the scaling [rows] of their turns."""
        ...


class FixedRope(NamedTuple):
    """The factors of a model with few regimes."""

    frequencies: Floats
    """[regimes, turned / 2]"""
    scaling: Floats
    """[regimes] of cosines and sines."""

    @property
    def width(self) -> int:
        """The number of frequencies of a head."""
        return int(self.frequencies.shape[1])

    def of(self, regimes: Ints) -> tuple[Floats, Floats]:
        """Return those of each row."""
        return self.frequencies[regimes], self.scaling[regimes]


class DynamicRope:
    """The factors of a model in which every length has its own: asked for when one comes up.

    Args:
        ask: Returns the frequencies and the scaling of a regime.
    """

    def __init__(self, ask: Callable[[int], _One]) -> None:
        self._ask = lru_cache(_MOST_LENGTHS)(ask)

    @property
    def width(self) -> int:
        """The number of frequencies of a head."""
        return len(self._ask(0)[0])

    def of(self, regimes: Ints) -> tuple[Floats, Floats]:
        """Return those of each row."""
        found = [self._ask(regime) for regime in regimes.tolist()]
        scaling = np.asarray([scaling for _, scaling in found], np.float32)
        return np.stack([frequencies for frequencies, _ in found]), scaling


def ropes_of(rotary: Any, factors: RotaryFactors) -> tuple[Rope, Rope]:
    """Return the ropes of layers with full attention and of sliding ones.

    Args:
        rotary: The rotary embedding of a model of transformers, in memory; None: positions do not
            turn.
        factors: Of that model.
    """
    if rotary is None:
        still = FixedRope(np.zeros((1, 0), np.float32), np.ones(1, np.float32))
        return still, still
    found = []
    for kind in _KINDS:
        prefix = "" if kind is None else f"{kind}_"
        if hasattr(rotary, f"{prefix}inv_freq"):
            found.append(_rope(rotary, kind, prefix, factors))
    return found[0], found[-1]


def _rope(rotary: Any, kind: str | None, prefix: str, factors: RotaryFactors) -> Rope:
    import torch

    lengths = factors.lengths
    has_one = not lengths.bounds and lengths.dynamic_from is None

    def ask(regime: int) -> _One:
        if not has_one:  # the embedding takes on the factors of the texts that it is called for
            factors.reset()
            options = {} if kind is None else {"layer_type": kind}
            places = torch.tensor([[lengths.first_place(regime)]])
            rotary(torch.zeros(1), position_ids=places, **options)
        frequencies = getattr(rotary, f"{prefix}inv_freq").float().numpy().copy()
        return frequencies, float(getattr(rotary, f"{prefix}attention_scaling"))

    if lengths.dynamic_from is not None:
        return DynamicRope(ask)
    asked = [ask(regime) for regime in range(len(lengths.bounds) + 1)]
    scaling = np.asarray([scaling for _, scaling in asked], np.float32)
    return FixedRope(np.stack([frequencies for frequencies, _ in asked]), scaling)


def turn(rope: Rope, positions: Ints, regimes: Ints) -> tuple[Floats, Floats]:
    """Return cosine and sine [rows, turned / 2] of the rows' angles."""
    frequencies, scaling = rope.of(regimes)
    angles = positions.astype(np.float32)[:, None] * frequencies
    return np.cos(angles) * scaling[:, None], np.sin(angles) * scaling[:, None]
