"""What a step costs by its rows, learnt from the steps of one engine."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["StepSeconds"]

_PRIOR_SLOPE, _PRIOR_WEIGHT = 0.08, 12.0
"""A row more costs this part of a step until steps were measured, and how much that counts (in
squared rows): small models on few cores pay 3 to 15 % for one."""
_MEMORY = 200
"""Steps over which the measured ones fade."""
_TRUST = 8
"""Steps of one size after which their own mean counts as much as the line through all."""
_OUTLIER = 3.0
"""Times what was expected: a step that took longer waited for another program."""


class StepSeconds:
    """A line through the measured steps, and the mean of each number of rows beside it."""

    def __init__(self) -> None:
        self.num_observed = 0
        self._sums = np.zeros(5)
        """Of weights, rows, seconds, rows², rows * seconds; all fading."""
        self._own: dict[int, list[float]] = {}
        """Rows -> mean ratio to the line, how often seen, and when last."""

    def observe(self, num_rows: int, seconds: float) -> None:
        """Learn of a step."""
        if seconds <= 0:
            return
        if self.num_observed >= _TRUST:
            seconds = min(seconds, _OUTLIER * float(self.of([num_rows])[0]))
        self.num_observed += 1
        fading = 1 - 1 / min(self.num_observed, _MEMORY)
        rows = float(num_rows)
        new = np.array([1, rows, seconds, rows * rows, rows * seconds])
        self._sums = fading * self._sums + (1 - fading) * new
        ratio = seconds / float(self._line(np.array([rows]))[0])
        own = self._own.setdefault(num_rows, [1.0, 0.0, 0.0])
        own[1] = min(own[1] + 1, 40)
        own[0] += (ratio - own[0]) / own[1]
        own[2] = self.num_observed

    def of(self, num_rows: Sequence[int]) -> npt.NDArray[np.float64]:
        """Return the expected seconds of steps; more rows never take less."""
        rows = np.asarray(num_rows, np.float64)
        found = self._line(rows)
        for place, number in enumerate(num_rows):
            own = self._own.get(number)
            if own is not None:
                # What was not seen for long is as likely to have changed.
                seen = own[1] * 0.5 ** ((self.num_observed - own[2]) / _MEMORY)
                found[place] *= 1 + (own[0] - 1) * seen / (seen + _TRUST)
        result: npt.NDArray[np.float64] = np.maximum.accumulate(found)
        return result

    def _line(self, rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if not self.num_observed:
            return 1 + _PRIOR_SLOPE * (rows - 1)
        _, mean_rows, mean_seconds, squares, products = self._sums
        spread, together = squares - mean_rows**2, products - mean_rows * mean_seconds
        # The prior is a slope relative to a step of one row.
        prior = _PRIOR_SLOPE * mean_seconds / (1 + _PRIOR_SLOPE * (mean_rows - 1))
        count = min(self.num_observed, _MEMORY)
        measured = count * (together if spread > 0 else 0.0)
        slope = (measured + _PRIOR_WEIGHT * prior) / (count * spread + _PRIOR_WEIGHT)
        # Without rows, a step takes some time, and never less than none.
        bounded = min(max(0.0, float(slope)), float(mean_seconds / mean_rows))
        return mean_seconds + bounded * (rows - mean_rows)
