"""Numbers as people read them: few digits, thousands separated, intervals in brackets, units."""

import math
from collections.abc import Sequence

__all__ = [
    "MISSING",
    "bytes_unit",
    "clock",
    "decimals_for",
    "fixed",
    "interval",
    "plain",
    "score_decimals",
]

MISSING = "Not measured"
_MOST_DECIMALS = 6
_POWER_FROM = 1e5
"""From here on numbers are written as powers of ten."""
_POWER_BELOW = 1e-4
_WHOLE_UP_TO = 1e9
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_GIGABYTE, _MEGABYTE, _KILOBYTE = 1e9, 1e6, 1e3


def _non_finite(value: float) -> str:
    if math.isnan(value):
        return "not a number"
    return "infinite" if value > 0 else "−infinite"


def _power(value: float, digits: int) -> str:
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    return f"{mantissa}×10{str(int(exponent)).translate(_RAISED)}".replace("-", "−")


def fixed(value: float, decimals: int) -> str:
    """Return `value` with that many decimals; one that would read 0 says how small it is."""
    if not math.isfinite(value):
        return _non_finite(value)
    if value and abs(value) < 0.5 * 10**-decimals:
        sign = "<" if value > 0 else ">−"
        return f"{sign}{10**-decimals:.{decimals}f}"
    if abs(value) >= _POWER_FROM:
        return _power(value, 3)
    return f"{value:,.{decimals}f}".replace("-", "−")


def plain(value: float, digits: int = 4) -> str:
    """Return `value` with about `digits` significant digits and no trailing zeros."""
    if not math.isfinite(value):
        return _non_finite(value)
    if value == int(value) and abs(value) < _WHOLE_UP_TO:
        return f"{int(value):,}".replace("-", "−")
    if abs(value) >= _POWER_FROM or abs(value) < _POWER_BELOW:
        return _power(value, digits)
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{decimals}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")


def interval(value: float, low: float | None, high: float | None, decimals: int) -> str:
    """Return ``26.1 [25.0, 27.3]``, or the value alone where no interval was measured."""
    if low is None or high is None:
        return fixed(value, decimals)
    return f"{fixed(value, decimals)} [{fixed(low, decimals)}, {fixed(high, decimals)}]"


def score_decimals(value: float, low: float | None, high: float | None) -> int:
    """Return the decimals that show two digits of the interval's width, or four of the value."""
    if low is not None and high is not None and math.isfinite(high - low) and high > low:
        wanted = 1 - math.floor(math.log10(high - low))
    elif value and math.isfinite(value):
        wanted = 3 - math.floor(math.log10(abs(value)))
    else:
        wanted = 2
    return min(_MOST_DECIMALS, max(0, wanted))


def decimals_for(values: Sequence[float]) -> int:
    """Return the decimals of a column of costs, by its largest number."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    return 2 if largest < 10 else 1 if largest < 100 else 0


def bytes_unit(values: Sequence[float]) -> tuple[str, float]:
    """Return the unit in which a column of byte counts reads best, and its size in bytes."""
    largest = max(values, default=0.0)
    for unit, size in (("GB", _GIGABYTE), ("MB", _MEGABYTE)):
        if largest >= 0.1 * size:
            return unit, size
    return "kB", _KILOBYTE


def clock(seconds: float) -> str:
    """Return a duration in the unit that a person would use."""
    if seconds < 120:
        return f"{plain(seconds, 3)} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:,.1f} h"
