"""Bytes in words: budgets as users write them, sizes as users read them."""

import re

from treadle.core.errors import SettingsError

__all__ = ["parse_bytes", "spoken"]

_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", 1):
    _UNITS[f"{_letter}b"] = 1000**_power
    _UNITS[f"{_letter}ib"] = 1024**_power


def parse_bytes(text: str) -> int:
    """Return the bytes of a size such as 24GiB, 800 MB or 1.5e9.

    Raises:
        SettingsError: The number or the unit cannot be read, or it is not more than 0.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?(?:e\d+)?)\s*([a-z]*)\s*", str(text).lower())
    if found is None or found.group(2) not in _UNITS:
        raise SettingsError(
            f"The budget '{text}' cannot be read, expected a number and a unit (B, KB, MB, GB, TB, "
            f"KiB, MiB, GiB or TiB); write it as in 24GiB."
        )
    num_bytes = float(found.group(1)) * _UNITS[found.group(2)]
    if not 1 <= num_bytes < 1e18:
        raise SettingsError(
            f"The budget '{text}' is {num_bytes:.3g} bytes, which no machine has; give what yours "
            f"has, with its unit, as in 24GiB."
        )
    return int(num_bytes)


def spoken(num_bytes: float) -> str:
    """Return a size in the largest unit of 1000 that leaves a number of at least 1."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(num_bytes) >= scale:
            return f"{num_bytes / scale:.2f} {unit}"
    return f"{num_bytes:.0f} B"
