"""Shuffles that are computed and not stored: any place of an order, at once, in no memory."""

import functools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.core.seed import stream_seed

__all__ = ["Permutation"]

Integers = npt.NDArray[np.int64]
_ROUNDS = 6


class Permutation(NamedTuple):
    """A random order of 0 .. size - 1, by a Feistel network over the next square.

    A value v is two digits (v div side, v mod side), and a round turns (a, b) into (b, a + f(b) mod
    side). Values beyond the size are permuted again until they fall inside, which few have to.
    Equal sizes, seeds and names give the same order everywhere.
    """

    size: int
    seed: int
    name: str

    def at(self, places: Integers) -> Integers:
        """Return what stands at some places."""
        return self._walked(places, range(_ROUNDS))

    def places_of(self, values: Integers) -> Integers:
        """Return where some values stand: the inverse of `at`."""
        return self._walked(values, range(_ROUNDS - 1, -1, -1))

    def _walked(self, values: Integers, rounds: range) -> Integers:
        side = np.uint64(math.isqrt(max(0, self.size - 1)) + 1)
        keys = _keys(self.seed, self.name)
        found = np.asarray(values, np.int64).astype(np.uint64)
        left = np.arange(len(found))
        while len(left):
            found[left] = _network(found[left], side, [keys[n] for n in rounds], rounds.step)
            left = left[found[left] >= self.size]
        return found.astype(np.int64)


@functools.lru_cache(64)
def _keys(seed: int, name: str) -> tuple[np.uint64, ...]:
    return tuple(np.uint64(stream_seed(seed, f"{name} {n}")) for n in range(_ROUNDS))


def _network(
    values: npt.NDArray[np.uint64], side: np.uint64, keys: list[np.uint64], step: int
) -> npt.NDArray[np.uint64]:
    """Apply the rounds of `keys`; with a step of -1 in reverse."""
    high, low = values // side, values % side
    for key in keys:
        if step > 0:
            high, low = low, (high + _mixed(low ^ key) % side) % side
        else:
            high, low = (low + side - _mixed(high ^ key) % side) % side, high
    return high * side + low


def _mixed(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Scramble 64 bits (the finaliser of SplitMix64)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
