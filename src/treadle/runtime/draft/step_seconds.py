"""What a step costs by its rows, learnt from the steps of one engine."""

from collections.abc import Iterable

__all__ = ["StepSeconds"]

_PRIOR_SLOPE, _PRIOR_WEIGHT = 0.08, 12.0
"""A row more costs this part of a step until steps were measured, and how much that counts (in
squared rows): small models on few cores pay 3 to 15 % for one."""
_MEMORY = 200
"""Steps over which the measured ones fade."""
_TRUST = 8
"""Steps of one size after which their own mean counts as much as the line through all."""
_MOST_SEEN = 40
_OUTLIER = 3.0
"""Times what was expected: a step that took longer waited for another program."""


class StepSeconds:
    """A line through the measured steps, and the mean of each number of rows beside it.

    Plain numbers: arrays as short as these take longer than what is computed with them.
    """

    def __init__(self) -> None:
        self.num_observed = 0
        self._rows = self._seconds = self._squares = self._products = 0.0
        """Means of rows, seconds, rows² and rows * seconds; all fading."""
        self._base, self._slope = 1 - _PRIOR_SLOPE, _PRIOR_SLOPE
        self._own: dict[int, list[float]] = {}
        """Rows -> mean ratio to the line, how often seen, and when last."""

    def observe(self, num_rows: int, seconds: float) -> None:
        """Learn of a step."""
        if seconds <= 0:
            return
        if self.num_observed >= _TRUST:
            seconds = min(seconds, _OUTLIER * self.of([num_rows])[0])
        self.num_observed += 1
        new = 1 / min(self.num_observed, _MEMORY)
        self._rows += new * (num_rows - self._rows)
        self._seconds += new * (seconds - self._seconds)
        self._squares += new * (num_rows * num_rows - self._squares)
        self._products += new * (num_rows * seconds - self._products)
        self._fit()
        own = self._own.setdefault(num_rows, [1.0, 0.0, 0.0])
        own[1] = min(own[1] + 1, _MOST_SEEN)
        own[0] += (seconds / (self._base + self._slope * num_rows) - own[0]) / own[1]
        own[2] = self.num_observed

    def of(self, num_rows: Iterable[int]) -> list[float]:
        """Return the expected seconds of steps, by ascending rows; more rows never take less."""
        found: list[float] = []
        least = 0.0
        for number in num_rows:
            seconds = self._base + self._slope * number
            own = self._own.get(number)
            if own is not None:
                # What was not seen for long is as likely to have changed.
                seen = own[1] * 0.5 ** ((self.num_observed - own[2]) / _MEMORY)
                seconds *= 1 + (own[0] - 1) * seen / (seen + _TRUST)
            least = max(least, seconds)
            found.append(least)
        return found

    def _fit(self) -> None:
        spread = max(0.0, self._squares - self._rows**2)
        together = self._products - self._rows * self._seconds
        # The prior is a slope relative to a step of one row.
        prior = _PRIOR_SLOPE * self._seconds / (1 + _PRIOR_SLOPE * (self._rows - 1))
        count = min(self.num_observed, _MEMORY)
        slope = (count * together + _PRIOR_WEIGHT * prior) / (count * spread + _PRIOR_WEIGHT)
        # A step without rows would take some time, and never less than none.
        self._slope = min(max(0.0, slope), self._seconds / self._rows)
        self._base = self._seconds - self._slope * self._rows
