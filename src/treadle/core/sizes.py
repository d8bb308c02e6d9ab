"""Sizes in words: bytes with a unit, as users write and read them; shares as people say them."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationInfo
from pydantic_core import PydanticCustomError

from treadle.core.errors import SettingsError

__all__ = [
    "WRITTEN",
    "Bytes",
    "is_bytes",
    "parse_bytes",
    "require_size",
    "share_of",
    "spoken",
    "written",
]

WRITTEN = {"is_written": True}
"""Validation context of what a person wrote in a shell or a recipe: there, sizes need a unit."""

_LEAST_BARE = 1024
"""A bare number below it was surely meant in another unit than bytes."""
_SHARES = {0.0: "none", 0.25: "a quarter", 0.5: "half", 0.75: "three quarters", 1.0: "all"}
_UNITS = {"b": 1}
for _power, _letter in enumerate("kmgt", 1):
    # Short forms as in Kubernetes. Slurm and docker mean 1024 by K: a budget read so is no larger.
    _UNITS[f"{_letter}b"] = _UNITS[_letter] = 1000**_power
    _UNITS[f"{_letter}ib"] = _UNITS[f"{_letter}i"] = 1024**_power


def parse_bytes(text: str) -> int:
    """Return the bytes of a size such as 24GiB, 800 MB or 1.5e9 B, in any case.

    G is GB, powers of 1000, and Gi is GiB, powers of 1024, as in Kubernetes.

    Raises:
        SettingsError: The number or the unit cannot be read, or it is not more than 0.
    """
    found = re.fullmatch(r"\s*((?:\d+\.?\d*|\.\d+)(?:e\+?\d+)?)\s*([a-z]*)\s*", str(text).lower())
    if found is not None and not found.group(2):
        number = found.group(1)
        raise SettingsError(
            f"The size '{text}' has no unit; write {number}GiB, {number}MB or, for single bytes, "
            f"{number}B."
        )
    if found is None or found.group(2) not in _UNITS:
        raise SettingsError(
            f"The size '{text}' cannot be read, expected a number and a unit: B, KB, MB, GB, TB "
            f"(or K, M, G, T) in powers of 1000, KiB, MiB, GiB, TiB (or Ki, Mi, Gi, Ti) in powers "
            f"of 1024; write it as in 24GiB."
        )
    num_bytes = float(found.group(1)) * _UNITS[found.group(2)]
    if not 1 <= num_bytes < 1e18:
        raise SettingsError(
            f"The size '{text}' is {num_bytes:.3g} bytes, which no machine has; give what yours "
            f"has, with its unit, as in 24GiB."
        )
    return int(num_bytes)


def require_size(name: str, num_bytes: int) -> None:
    """Refuse a bare number that is so small that another unit was meant.

    A setting whose name ends in `_bytes` says its unit, so that any number is honest there.

    Raises:
        SettingsError: The number is below a KiB, and the name does not say bytes.
    """
    if 0 < num_bytes < _LEAST_BARE and not name.endswith("_bytes"):
        raise SettingsError(
            f"{name} = {num_bytes} is {num_bytes} bytes, which is surely not meant; write it with "
            f"its unit: '{num_bytes}GiB', '{num_bytes}MB' or, for single bytes, '{num_bytes}B'."
        )


def spoken(num_bytes: float) -> str:
    """Return a size in the largest unit of 1000 that leaves a number of at least 1."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(num_bytes) >= scale:
            return f"{num_bytes / scale:.2f} {unit}"
    return f"{num_bytes:.0f} B"


def share_of(fraction: float, what: str) -> str:
    """Return a share as people say it: half of the weights, 30 % of the weights."""
    return f"{_SHARES.get(fraction, f'{100 * fraction:.4g} %')} of {what}"


def written(num_bytes: int) -> str:
    """Return a size as `parse_bytes` reads it, exactly, in the largest binary unit that fits."""
    for power, letter in reversed(list(enumerate("KMGT", 1))):
        if num_bytes and num_bytes % 1024**power == 0:
            return f"{num_bytes // 1024**power}{letter}iB"
    return f"{num_bytes}B"


def _read(value: Any, info: ValidationInfo) -> Any:  # Any: whatever was given
    """Turn a size in words into bytes; plain numbers pass in Python, where names carry the unit."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not isinstance(value, str) and not (is_number and info.context == WRITTEN):
        return value
    try:
        return parse_bytes(str(value))
    except SettingsError as error:
        raise PydanticCustomError("size", "{reason}", {"reason": str(error)}) from error


_READ = BeforeValidator(_read)
Bytes = Annotated[int, _READ]
"""A count of bytes: "2GB" or "24GiB" on the command line and in recipes, in Python a number too."""


def is_bytes(annotation: Any) -> bool:  # Any: a type
    """Return whether a type, or a member of it where it is a union, is `Bytes`."""
    extras = getattr(annotation, "__metadata__", ())
    return _READ in extras or any(map(is_bytes, getattr(annotation, "__args__", ())))
