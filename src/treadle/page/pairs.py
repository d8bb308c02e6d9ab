"""Two rows of one table side by side: what is compared, and which is clearly better."""

from treadle.core.result import Measurement
from treadle.page.scores import Row

__all__ = ["bounds", "compared_in", "is_clearly_better"]


def is_clearly_better(row: Row, other: Row) -> bool:
    """Whether the row's interval lies wholly on the better side of the other's."""
    sign = -1.0 if row.score.better == "higher" else 1.0
    ours, theirs = (bounds(entry, sign) for entry in compared_in(row, other))
    return ours[1] < theirs[0]


def compared_in(loser: Row, winner: Row) -> tuple[Measurement, Measurement]:
    """Return the paired comparisons if both were made with one baseline, else the scores.

    A comparison pairs examples, so its interval is free of what makes some examples harder.
    """
    ours, theirs = loser.comparison, winner.comparison
    is_paired = loser.is_sound and winner.is_sound and loser.baseline_hash == winner.baseline_hash
    if ours and theirs and is_paired:
        return ours, theirs
    return loser.score, winner.score


def bounds(entry: Measurement, sign: float) -> tuple[float, float]:
    """Return the ends of the interval, the better one first; the value twice if it has none."""
    low = entry.value if entry.low is None else entry.low
    high = entry.value if entry.high is None else entry.high
    ends = sorted((sign * low, sign * high))
    return ends[0], ends[1]
