"""The k-th largest magnitude of a stream, exactly, without keeping or sorting the stream."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from treadle.combine.merge.base import Floats
from treadle.native import elements

__all__ = ["NOTHING", "Cutoff", "Largest", "Magnitudes"]

_HIGH_BINS, _LOW_BINS = 1 << 15, 1 << 16


class Cutoff(NamedTuple):
    """Where the largest elements of a stream end."""

    magnitude: np.float32
    """Of the smallest among the largest."""
    num_kept: int
    """How many elements of exactly this magnitude are among the largest."""
    num_equal: int
    """How many there are."""


NOTHING = Cutoff(np.float32(np.inf), 0, 0)
"""The cutoff above all elements."""


class Magnitudes:
    """Ranks the magnitudes of a stream that is read twice: `count`, `ask`, then `refine`.

    The first pass counts by the upper 16 bits of a magnitude, the second by the lower 16 bits
    within the bins that hold the ranks asked for. A float32's magnitude orders as its bits do.
    """

    def __init__(self) -> None:
        self._high = np.zeros(_HIGH_BINS, np.int64)
        self._low: dict[int, npt.NDArray[np.int64]] = {}

    def count(self, values: Floats) -> None:
        """Take note of a run in the first pass."""
        elements.count_high_bits(values, self._high)

    def ask(self, *ranks: int) -> None:
        """Say, between the passes, which ranks will be wanted."""
        for rank in ranks:
            if rank:
                high, _ = _bin_of(rank, self._high)
                self._low.setdefault(high, np.zeros(_LOW_BINS, np.int64))

    def refine(self, values: Floats) -> None:
        """Take note of a run in the second pass."""
        for high, bins in self._low.items():
            elements.count_low_bits(values, high, bins)

    def empty(self) -> "Magnitudes":
        """Return one that has counted nothing, and that the same ranks were asked of."""
        found = Magnitudes()
        found._low = {high: np.zeros_like(bins) for high, bins in self._low.items()}
        return found

    def add(self, other: "Magnitudes") -> None:
        """Count in what another one, made by `empty`, has counted in the same pass."""
        self._high += other._high
        for high, bins in other._low.items():
            self._low[high] += bins

    def about(self, rank: int) -> float:
        """Return, after the first pass, the rank-th largest magnitude to within a hundredth."""
        high, _ = _bin_of(rank, self._high)
        return float(np.uint32(high << 16).view(np.float32))

    def cutoff(self, rank: int) -> Cutoff:
        """Return where the `rank` largest elements end; none of them for rank 0."""
        if rank == 0:
            return NOTHING
        high, within = _bin_of(rank, self._high)
        low, num_kept = _bin_of(within, self._low[high])
        magnitude = np.uint32(high << 16 | low).view(np.float32)
        return Cutoff(magnitude, num_kept, int(self._low[high][low]))


def _bin_of(rank: int, bins: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Return the bin of the rank-th largest, and its rank within the bin."""
    counted = np.cumsum(bins[::-1])
    place = int(np.searchsorted(counted, rank))
    assert place < len(bins), "there are fewer elements than the rank"
    before = int(counted[place - 1]) if place else 0
    return len(bins) - 1 - place, rank - before


class Largest:
    """Tells, run after run in order, which elements are among the largest.

    Of elements of the cutoff's own magnitude the first ones are.
    """

    def __init__(self, cutoff: Cutoff) -> None:
        self._magnitude = cutoff.magnitude
        self._keeps_ties = cutoff.num_kept == cutoff.num_equal
        self._left = cutoff.num_kept

    def among(self, sizes: Floats) -> npt.NDArray[np.bool_]:
        """Return a mask of a run of magnitudes."""
        if self._keeps_ties:
            return sizes >= self._magnitude
        found = sizes > self._magnitude
        if self._left:
            first = np.flatnonzero(sizes == self._magnitude)[: self._left]
            found[first] = True
            self._left -= first.size
        return found
