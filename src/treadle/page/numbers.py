"""Numbers as people read them: few digits, thousands separated, intervals in brackets, units."""

import math
from collections.abc import Iterable, Sequence

__all__ = [
    "MISSING",
    "bytes_unit",
    "clock",
    "decimals_for",
    "fixed",
    "interval",
    "is_drawable",
    "plain",
    "power_of_ten",
    "powers_for",
    "score_decimals",
    "share",
    "spoken",
]

MISSING = "Not measured"
_MOST_DECIMALS = 6
_POWER_FROM = 1e9
"""From here on numbers are written as powers of ten."""
_POWER_BELOW = 1e-4
_MOST_DIGITS, _MOST_PLAIN_DECIMALS = 5, 12
_LARGE = ((1e9, "billion"), (1e6, "million"))
_MOST_SPOKEN = 1e12
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MOST_DRAWN = 1e250
_GIGABYTE, _MEGABYTE, _KILOBYTE = 1e9, 1e6, 1e3


def _non_finite(value: float) -> str:
    if math.isnan(value):
        return "not a number"
    return "infinite" if value > 0 else "−infinite"


def _power(value: float, digits: int) -> str:
    if not value:
        return "0"
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    return f"{mantissa}×10{str(int(exponent)).translate(_RAISED)}".replace("-", "−")


def powers_for(values: Iterable[float | None]) -> bool:
    """Whether a column with these numbers is written in powers of ten, by its largest one."""
    sizes = [abs(value) for value in values if value is not None and math.isfinite(value)]
    largest = max(sizes, default=0.0)
    return largest >= _POWER_FROM or 0 < largest < _POWER_BELOW


def is_drawable(value: float) -> bool:
    """Whether a picture can show `value`: it is a number, with room for margins behind it."""
    return abs(value) <= _MOST_DRAWN


def fixed(value: float, decimals: int, powers: bool | None = None) -> str:
    """Return `value` with that many decimals; one that would read 0 says how small it is.

    `powers` says whether the column is written in powers of ten; by itself the number decides.
    """
    if not math.isfinite(value):
        return _non_finite(value)
    if powers:
        size = math.floor(math.log10(abs(value))) if value else 0
        return _power(value, min(_MOST_DIGITS, max(3, size + 1 + decimals)))
    if value and abs(value) < 0.5 * 10**-decimals:
        sign = "<" if value > 0 else ">−"
        return f"{sign}{10**-decimals:.{decimals}f}"
    if powers is None and abs(value) >= _POWER_FROM:
        return _power(value, 3)
    return f"{value:,.{decimals}f}".replace("-", "−")


def plain(value: float, digits: int = 4, powers: bool | None = None) -> str:
    """Return `value` with about `digits` significant digits and no trailing zeros.

    `powers` says whether the column is written in powers of ten; by itself the number decides.
    """
    if not math.isfinite(value):
        return _non_finite(value)
    if not powers and value == int(value) and (abs(value) < _POWER_FROM or powers is False):
        return f"{int(value):,}".replace("-", "−")
    if powers or (powers is None and not _POWER_BELOW <= abs(value) < _POWER_FROM):
        return _power(value, digits)
    wanted = digits - 1 - math.floor(math.log10(abs(value)))
    decimals = min(_MOST_PLAIN_DECIMALS, max(0, wanted))
    text = f"{value:,.{decimals}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")


def interval(
    value: float, low: float | None, high: float | None, decimals: int, powers: bool | None = None
) -> str:
    """Return ``26.1 [25.0, 27.3]``, or the value alone where it is not finite or has no interval.

    `powers` says whether the column is written in powers of ten; by itself the interval decides.
    """
    if powers is None:
        powers = powers_for([value, low, high])
    text = fixed(value, decimals, powers)
    if low is None or high is None or not math.isfinite(value):
        return text
    return f"{text} [{fixed(low, decimals, powers)}, {fixed(high, decimals, powers)}]"


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


def power_of_ten(value: float) -> str:
    """Return a power of ten as an axis shows it: 10⁴."""
    return f"10{str(round(math.log10(value))).translate(_RAISED)}"


def spoken(value: float) -> str:
    """Return `value` as a sentence says it: three digits, millions and billions in words."""
    if not math.isfinite(value):
        return _non_finite(value)
    for scale, name in _LARGE:
        if scale <= abs(value) < _MOST_SPOKEN:
            digits = 2 if abs(value) >= 10 * scale else 3
            return f"{plain(float(f'{value / scale:.{digits}g}'), 3)} {name}"
    if value == int(value) or abs(value) >= _MOST_SPOKEN or abs(value) < _POWER_BELOW:
        return plain(value, 3)
    return fixed(value, max(0, 2 - math.floor(math.log10(abs(value)))))


def share(fraction: float) -> str:
    """Return a fraction in percent, without decimals unless it is small."""
    percent = 100 * fraction
    return f"{percent:.0f} %" if percent >= 10 or not percent else f"{plain(percent, 2)} %"
